"""Relatives of what the other files have."""

import enum
import logging
import time
import uuid
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from durabletask import task
from durabletask.task import OrchestrationContext as OC

from bridge.workflow import Inbox

log = logging.getLogger(__name__)


def work(ctx: task.ActivityContext, v):
    return v


# global via param alias tuple
SEEN_1 = set()


def global_via_param_alias_tuple(ctx: OC, v):
    a, b = SEEN_1, 1  # finds: globals
    a.add(v)
    yield ctx.call_activity(work)


# walrus alias
SEEN_2 = set()


def walrus_alias(ctx: OC, v):
    if (s := SEEN_2) is not None:  # finds: globals
        s.add(v)
    yield ctx.call_activity(work)


# passed to helper
SEEN_3 = set()


def note_3(s, v):
    s.add(v)  # finds: globals


def passed_to_helper(ctx: OC, v):
    note_3(SEEN_3, v)
    yield ctx.call_activity(work)


# aug set
SEEN_4 = set()
LIST_4 = []


def aug_set(ctx: OC, v):
    seen = SEEN_4  # finds: globals
    seen |= {v}
    l = LIST_4  # finds: globals
    l += [v]
    yield ctx.call_activity(work)


# setattr / vars / __dict__
class T_5:
    n = 0


def setattr_vars___dict(ctx: OC, v):
    setattr(T_5, "n", 1)  # finds: globals
    yield ctx.call_activity(work)


# del cls attr, for alias
SEEN_6 = {}


def del_cls_attr_for_alias(ctx: OC, v):
    for d in (SEEN_6,):  # finds: globals
        d[v] = 1
    yield ctx.call_activity(work)


# property in base class
class Base_7:
    @property
    def now(self):
        return datetime.now()  # finds: clock


class C_7(Base_7):
    def __init__(self):
        pass


def property_in_base_class(ctx: OC, v):
    c = C_7()
    yield ctx.create_timer(c.now)


# lambda default call
clock_8 = lambda: time.time()  # finds: clock


class K_8:
    def __call__(self):
        return clock_8()


def lambda_default_call(ctx: OC, v):
    k = K_8()
    f = k
    yield ctx.call_activity(work, input=f())


# table in class / fn dict
class T_9:
    table = {"now": datetime.now}


def make_9():
    return {"now": time.time}  # finds: clock


def table_in_class_fn_dict(ctx: OC, v):
    x = T_9.table["now"]()  # finds: clock
    yield ctx.call_activity(work, input=x)


def table_in_class_fn_dict_2(ctx: OC, v):
    x = make_9()["now"]()
    yield ctx.call_activity(work, input=x)


# partial table, match
TABLE_10 = dict(now=datetime.now, id=uuid.uuid4)


def partial_table_match(ctx: OC, v):
    f = TABLE_10["now"]
    yield ctx.call_activity(work, input=f())  # finds: clock, uuid


def partial_table_match_2(ctx: OC, v):
    for f in TABLE_10.values():
        yield ctx.call_activity(work, input=f())  # finds: clock, uuid


def partial_table_match_3(ctx: OC, v):
    for k, f in TABLE_10.items():
        yield ctx.call_activity(work, input=f())  # finds: clock, uuid


# is_replaying variants
def is_replaying_variants(ctx: OC, v):
    match ctx.is_replaying:
        case False:
            yield ctx.call_activity(work)  # finds: replaying


def is_replaying_variants_2(ctx: OC, v):
    if not getattr(ctx, "is_replaying"):
        yield ctx.call_activity(work)  # finds: replaying


def is_replaying_variants_3(ctx: OC, v):
    tasks = [ctx.call_activity(work) for _ in range(3) if not ctx.is_replaying]  # finds: replaying
    if tasks:
        yield task.when_all(tasks)  # finds: replaying


def is_replaying_variants_4(ctx: OC, v):
    assert not ctx.is_replaying  # finds: replaying
    yield ctx.call_activity(work)


def is_replaying_variants_5(ctx: OC, v):
    d = {"r": ctx.is_replaying}
    yield ctx.call_activity(work, input=d)  # finds: replaying


def is_replaying_variants_6(ctx: OC, v):
    n = int(ctx.is_replaying)
    yield ctx.call_activity(work, input=n)  # finds: replaying


def is_replaying_variants_7(ctx: OC, v):
    try:
        if ctx.is_replaying:
            raise KeyError  # finds: replaying
    except KeyError:
        pass
    yield ctx.call_activity(work)


# when_any param of input slice
def when_any_param_of_input_slice(ctx: OC, v):
    tasks = list(map(lambda o: ctx.call_activity(work, input=o), v))
    yield task.when_any(tasks)  # finds: empty-when-any


def when_any_param_of_input_slice_2(ctx: OC, v):
    yield task.when_any(ctx.call_activity(work, input=o) for o in v)  # finds: empty-when-any


def when_any_param_of_input_slice_3(ctx: OC, v):
    tasks = [ctx.call_activity(work)] if v else []
    yield task.when_any(tasks)  # finds: empty-when-any


def when_any_param_of_input_slice_4(ctx: OC, v):
    tasks = [ctx.call_activity(work)] * len(v)
    yield task.when_any(tasks)  # finds: empty-when-any


def when_any_param_of_input_slice_5(ctx: OC, v):
    tasks = [ctx.call_activity(work)][1:]
    yield task.when_any(tasks)  # finds: empty-when-any


# returned
def returned(ctx: OC, v):
    if v:
        return (yield ctx.call_activity(work))
    return ctx.create_timer(timedelta(1))  # finds: missing-yield


def returned_2(ctx: OC, v):
    t = ctx.call_activity(work)  # finds: missing-yield
    yield ctx.create_timer(timedelta(1))
    return {"t": t}


def returned_3(ctx: OC, v):
    return [ctx.call_activity(work)]  # finds: missing-yield


def returned_4(ctx: OC, v):
    a = b = ctx.call_activity(work)  # finds: missing-yield
    yield ctx.create_timer(timedelta(1))


def returned_5(ctx: OC, v):
    ctx.call_activity(work) if v else None  # finds: missing-yield
    yield ctx.create_timer(timedelta(1))


def returned_6(ctx: OC, v):
    ts = {}
    for k in v:
        ts[k] = ctx.call_activity(work)  # finds: missing-yield
    yield ctx.create_timer(timedelta(1))


def returned_7(ctx: OC, v):
    [ctx.call_activity(work, input=o) for o in v]  # finds: missing-yield
    yield ctx.create_timer(timedelta(1))


def returned_8(ctx: OC, v):
    task.when_all([ctx.call_activity(work)])  # finds: missing-yield
    yield ctx.create_timer(timedelta(1))


def returned_9(ctx: OC, v):
    g = task.when_all([ctx.call_activity(work)])  # finds: missing-yield
    yield ctx.create_timer(timedelta(1))
