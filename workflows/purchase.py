"""Order of a customer, as the message `order.created` carries it."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class OrderLine:
    """One article and its quantity."""

    sku: str
    quantity: int = 1


@dataclass
class Order:
    """Input of `fulfil_order` and `order_saga`. Deadlines are seconds; amounts are in `currency`."""

    id: str
    customer: str
    total: float
    currency: str = "EUR"
    lines: list[OrderLine] = field(default_factory=list)
    payment_deadline: float = 15 * 60
    shipment_deadline: float = 14 * 24 * 3600
