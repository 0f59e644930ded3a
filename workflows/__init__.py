"""Sample workflows: plain Durable Task functions and entities.

The configuration names this package (`workflows: [workflows]`), and the bridge finds them in its modules.
"""

from workflows.account import CustomerAccount
from workflows.approval import approval, send_reminder
from workflows.order import fulfil_order
from workflows.order_plain import order_saga
from workflows.parcel import shipment_watch
from workflows.payment import refund_payment, request_payment, return_payment, void_payment
from workflows.shipping import cancel_shipment, request_shipment
from workflows.stock import StockLevel, release_stock, reserve_stock

__all__ = [
    "CustomerAccount",
    "StockLevel",
    "approval",
    "cancel_shipment",
    "fulfil_order",
    "order_saga",
    "refund_payment",
    "release_stock",
    "request_payment",
    "request_shipment",
    "reserve_stock",
    "return_payment",
    "send_reminder",
    "shipment_watch",
    "void_payment",
]
