"""Approval: a person decides, is reminded, or never answers."""

from __future__ import annotations

import pytest

from tests.workflows.conftest import WorkflowFixture
from workflows import approval
from workflows.approval import ApprovalRequest


@pytest.mark.parametrize(("approved", "status"), [(True, "approved"), (False, "rejected")])
def test_the_decision_is_the_result(hub: WorkflowFixture, approved: bool, status: str) -> None:
    subject = f"decided-{status}"
    hub.start(approval, f"return-{subject}", ApprovalRequest(subject))
    hub.tell(f"return-{subject}", "decision", {"approved": approved, "by": "ann"})
    expected = {"subject": subject, "status": status, "by": "ann", "reminders": 0}
    assert hub.result(f"return-{subject}") == expected
    assert [(event["type"], event["data"]) for event in hub.published_for(subject)] == [(f"return.{status}", expected)]


def test_reminders_go_out_until_the_decision_comes(hub: WorkflowFixture) -> None:
    hub.start(approval, "return-slow", ApprovalRequest("slow", remind_after=0.2))
    hub.reaches("return-slow", '"reminders": 2')
    hub.tell("return-slow", "decision", {"approved": True, "by": "bob"})
    result = hub.result("return-slow")
    sent = [reminder["number"] for reminder in hub.reminders if reminder["subject"] == "slow"]
    assert result["status"] == "approved"
    assert sent == list(range(1, result["reminders"] + 1))
    assert result["reminders"] >= 2


def test_without_an_answer_it_expires(hub: WorkflowFixture) -> None:
    hub.start(approval, "return-silent", ApprovalRequest("silent", remind_after=0.15, deadline=0.2))
    assert hub.result("return-silent") == {"subject": "silent", "status": "expired", "by": None, "reminders": 1}


def test_a_suspended_approval_reads_the_decision_on_resume(hub: WorkflowFixture) -> None:
    hub.start(approval, "return-held", ApprovalRequest("held"))
    hub.reaches("return-held", "awaiting decision")
    hub.client.suspend_orchestration("return-held")
    hub.tell("return-held", "decision", {"approved": True, "by": "eve"})
    hub.client.resume_orchestration("return-held")
    assert hub.result("return-held")["status"] == "approved"
