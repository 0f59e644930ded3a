// What the JavaScript SDK can do with the server, one capability after the other.
// Prints one JSON object a line: {"name": ..., "problem": null or text}. The server's connection string comes in
// SERVICEBUS_CONNECTION; it must have the entities that test_javascript.py gives it.
import assert from "node:assert/strict";
import { ServiceBusClient, delay } from "@azure/service-bus";

const connection = process.env.SERVICEBUS_CONNECTION;
const options = { retryOptions: { maxRetries: 0, timeoutInMs: 10_000 } };
const client = new ServiceBusClient(connection, options);
const wait = { maxWaitTimeInMs: 10_000 };
let queues = 0;

// Every capability has a queue, or a session, of its own
const own = () => `queue-${queues++}`;

async function take(receiver, count) {
  const found = [];
  while (found.length < count) {
    const some = await receiver.receiveMessages(count - found.length, wait);
    assert.ok(some.length, `only ${found.length} of ${count} messages came`);
    found.push(...some);
  }
  return found;
}

async function send(path, ...messages) {
  const sender = client.createSender(path);
  await sender.sendMessages(messages);
  await sender.close();
}

const bodies = (messages) => messages.map((message) => message.body);

const capabilities = {
  async "send and receive"() {
    const queue = own();
    const sender = client.createSender(queue);
    const receiver = client.createReceiver(queue);
    await sender.sendMessages({
      body: { text: "ž", list: [1, 2.5, null] },
      messageId: "id-1",
      subject: "order.created",
      contentType: "application/json",
      correlationId: "c-1",
      to: "somewhere",
      replyTo: "back",
      partitionKey: "p",
      timeToLive: 3_600_000,
      applicationProperties: { text: "ž", number: 7, yes: true },
    });
    const [message] = await take(receiver, 1);
    assert.deepEqual(message.body, { text: "ž", list: [1, 2.5, null] });
    assert.equal(message.messageId, "id-1");
    assert.equal(message.subject, "order.created");
    assert.equal(message.contentType, "application/json");
    assert.equal(message.correlationId, "c-1");
    assert.equal(message.to, "somewhere");
    assert.equal(message.replyTo, "back");
    assert.equal(message.partitionKey, "p");
    assert.equal(message.timeToLive, 3_600_000);
    assert.deepEqual({ ...message.applicationProperties }, { text: "ž", number: 7, yes: true });
    assert.equal(message.deliveryCount, 0);
    assert.equal(message.sequenceNumber.toNumber(), 1);
    assert.equal(message.state, "active");
    assert.ok(Math.abs(message.enqueuedTimeUtc - Date.now()) < 10_000);
    assert.ok(message.lockedUntilUtc - Date.now() > 10_000);
    await receiver.completeMessage(message);
    assert.deepEqual(await receiver.peekMessages(1), []);
    await receiver.close();
    await sender.close();
  },

  async "a large message in several frames"() {
    const queue = own();
    const body = Buffer.alloc(200_000, 7);
    await send(queue, { body });
    const receiver = client.createReceiver(queue);
    const [message] = await take(receiver, 1);
    assert.ok(body.equals(message.body));
    await receiver.completeMessage(message);
    await receiver.close();
  },

  async "batch by size"() {
    const queue = own();
    const sender = client.createSender(queue);
    const batch = await sender.createMessageBatch();
    assert.equal(batch.maxSizeInBytes, 262_144);
    let added = 0;
    while (batch.tryAddMessage({ body: "x".repeat(10_000), messageId: `m-${added}` })) added++;
    assert.ok(added >= 25, `${added} messages in a batch`);
    await sender.sendMessages(batch);
    const receiver = client.createReceiver(queue);
    for (const message of await take(receiver, added)) await receiver.completeMessage(message);
    await assert.rejects(sender.sendMessages({ body: "x".repeat(300_000) }), { code: "MessageSizeExceeded" });
    await receiver.close();
    await sender.close();
  },

  async "complete"() {
    const queue = own();
    await send(queue, { body: 1 });
    const receiver = client.createReceiver(queue);
    const [message] = await take(receiver, 1);
    await receiver.completeMessage(message);
    assert.deepEqual(await receiver.peekMessages(5), []);
    await receiver.close();
  },

  async "abandon"() {
    const queue = own();
    await send(queue, { body: 1 });
    const receiver = client.createReceiver(queue);
    const [message] = await take(receiver, 1);
    await receiver.abandonMessage(message);
    const [again] = await take(receiver, 1);
    assert.equal(again.deliveryCount, 1);
    assert.equal(again.sequenceNumber.toNumber(), message.sequenceNumber.toNumber());
    await receiver.completeMessage(again);
    await receiver.close();
  },

  async "defer"() {
    const queue = own();
    await send(queue, { body: 1 });
    const receiver = client.createReceiver(queue);
    const [message] = await take(receiver, 1);
    await receiver.deferMessage(message);
    const [peeked] = await receiver.peekMessages(1);
    assert.equal(peeked.state, "deferred");
    const [deferred] = await receiver.receiveDeferredMessages(message.sequenceNumber);
    assert.equal(deferred.body, 1);
    assert.ok(deferred.lockToken);
    await receiver.completeMessage(deferred);
    await assert.rejects(receiver.receiveDeferredMessages(message.sequenceNumber), { code: "MessageNotFound" });
    await receiver.close();
  },

  async "dead-letter, and its queue"() {
    const queue = own();
    await send(queue, { body: 1, applicationProperties: { kept: "yes" } });
    const receiver = client.createReceiver(queue);
    const [message] = await take(receiver, 1);
    await receiver.deadLetterMessage(message, {
      deadLetterReason: "why",
      deadLetterErrorDescription: "because",
    });
    const dead = client.createReceiver(queue, { subQueueType: "deadLetter" });
    const [letter] = await take(dead, 1);
    assert.equal(letter.deadLetterReason, "why");
    assert.equal(letter.deadLetterErrorDescription, "because");
    assert.equal(letter.applicationProperties.kept, "yes");
    await dead.completeMessage(letter);
    await dead.close();
    await receiver.close();
  },

  async "too many deliveries"() {
    const queue = "three-times";
    await send(queue, { body: 1 });
    const receiver = client.createReceiver(queue);
    for (let count = 0; count < 3; count++) {
      const [message] = await take(receiver, 1);
      assert.equal(message.deliveryCount, count);
      await receiver.abandonMessage(message);
    }
    const dead = client.createReceiver(queue, { subQueueType: "deadLetter" });
    const [letter] = await take(dead, 1);
    assert.equal(letter.deadLetterReason, "MaxDeliveryCountExceeded");
    await dead.completeMessage(letter);
    await dead.close();
    await receiver.close();
  },

  async "renew a lock, lose a lock"() {
    const queue = "short-lock";
    await send(queue, { body: 1 });
    const receiver = client.createReceiver(queue, { maxAutoLockRenewalDurationInMs: 0 });
    const [message] = await take(receiver, 1);
    for (let turn = 0; turn < 4; turn++) {
      await delay(500);
      const until = await receiver.renewMessageLock(message);
      assert.ok(until > Date.now());
    }
    await delay(1_500);
    await assert.rejects(receiver.completeMessage(message), { code: "MessageLockLost" });
    const [again] = await take(receiver, 1);
    assert.equal(again.deliveryCount, 1);
    await receiver.completeMessage(again);
    await receiver.close();
  },

  async "receive and delete"() {
    const queue = own();
    await send(queue, { body: 1 }, { body: 2 });
    const receiver = client.createReceiver(queue, { receiveMode: "receiveAndDelete" });
    assert.deepEqual(bodies(await take(receiver, 2)), [1, 2]);
    assert.deepEqual(await receiver.peekMessages(5), []);
    await receiver.close();
  },

  async "peek"() {
    const queue = own();
    await send(queue, { body: 1 }, { body: 2 }, { body: 3 });
    const receiver = client.createReceiver(queue);
    assert.deepEqual(bodies(await receiver.peekMessages(2)), [1, 2]);
    assert.deepEqual(bodies(await receiver.peekMessages(2)), [3]);
    for (const message of await take(receiver, 3)) await receiver.completeMessage(message);
    await receiver.close();
  },

  async "a stream of messages"() {
    const queue = own();
    const receiver = client.createReceiver(queue);
    const seen = [];
    const problems = [];
    const all = new Promise((resolve) => {
      receiver.subscribe({
        processMessage: async (message) => {
          seen.push(message.body);
          if (seen.length === 50) resolve();
        },
        processError: async (args) => problems.push(args.error),
      });
    });
    await send(queue, ...Array.from({ length: 50 }, (_, number) => ({ body: number })));
    await all;
    await receiver.close();
    assert.deepEqual(seen, Array.from({ length: 50 }, (_, number) => number));
    assert.deepEqual(problems, []);
  },

  async "schedule and cancel"() {
    const queue = own();
    const sender = client.createSender(queue);
    const receiver = client.createReceiver(queue);
    const soon = new Date(Date.now() + 1_500);
    const [first, never] = await sender.scheduleMessages([{ body: "soon" }, { body: "never" }], soon);
    await sender.cancelScheduledMessages(never);
    const [peeked] = await receiver.peekMessages(5);
    assert.equal(peeked.state, "scheduled");
    const [message] = await take(receiver, 1);
    assert.equal(message.body, "soon");
    assert.ok(Date.now() >= soon);
    await receiver.completeMessage(message);
    await assert.rejects(sender.cancelScheduledMessages(first), { code: "MessageNotFound" });
    assert.deepEqual(await receiver.peekMessages(5), []);
    await receiver.close();
    await sender.close();
  },

  async "duplicate detection"() {
    const queue = "no-duplicates";
    await send(queue, { body: 1, messageId: "a" }, { body: 2, messageId: "a" });
    await send(queue, { body: 3, messageId: "a" }, { body: 4, messageId: "b" });
    const receiver = client.createReceiver(queue);
    const found = await take(receiver, 2);
    assert.deepEqual(bodies(found), [1, 4]);
    for (const message of found) await receiver.completeMessage(message);
    assert.deepEqual(await receiver.peekMessages(5), []);
    await receiver.close();
  },

  async "time to live"() {
    const queue = "expires-to-dead-letters";
    await send(queue, { body: 1, timeToLive: 300 });
    const dead = client.createReceiver(queue, { subQueueType: "deadLetter" });
    const [letter] = await take(dead, 1);
    assert.equal(letter.deadLetterReason, "TTLExpiredException");
    await dead.completeMessage(letter);
    await dead.close();
  },

  async "sessions"() {
    await send("sessions", { body: "a1", sessionId: "a" }, { body: "a2", sessionId: "a" });
    const receiver = await client.acceptSession("sessions", "a");
    assert.equal(receiver.sessionId, "a");
    await assert.rejects(client.acceptSession("sessions", "a"), { code: "SessionCannotBeLocked" });
    const found = await take(receiver, 2);
    assert.deepEqual(bodies(found), ["a1", "a2"]);
    assert.equal(found[0].sessionId, "a");
    await receiver.abandonMessage(found[0]);
    await receiver.deferMessage(found[1]);
    const [again] = await take(receiver, 1);
    assert.equal(again.body, "a1");
    await receiver.completeMessage(again);
    const [deferred] = await receiver.receiveDeferredMessages(found[1].sequenceNumber);
    await receiver.completeMessage(deferred);
    await receiver.close();
  },

  async "the next free session"() {
    await send("sessions", { body: "n1", sessionId: "n" });
    const receiver = await client.acceptNextSession("sessions");
    assert.equal(receiver.sessionId, "n");
    const [message] = await take(receiver, 1);
    await receiver.completeMessage(message);
    await receiver.close();
    await assert.rejects(client.acceptNextSession("empty-sessions", { maxWaitTimeInMs: 500 }));
  },

  async "session state and lock"() {
    await send("sessions", { body: "s1", sessionId: "s" });
    const receiver = await client.acceptSession("sessions", "s");
    assert.equal(await receiver.getSessionState(), null);
    await receiver.setSessionState("the state");
    assert.equal(String(await receiver.getSessionState()), "the state");
    const before = receiver.sessionLockedUntilUtc;
    await delay(20);
    const until = await receiver.renewSessionLock();
    assert.ok(until > before);
    const [message] = await take(receiver, 1);
    await receiver.completeMessage(message);
    await receiver.setSessionState(null);
    await receiver.close();
  },

  async "topic and subscriptions"() {
    await send(
      "events",
      { body: 1, subject: "order", applicationProperties: { region: "eu", total: 5 } },
      { body: 2, subject: "order", applicationProperties: { region: "us", total: 500 } },
    );
    for (const [name, expected] of [["all", [1, 2]], ["eu", [1]], ["large", [2]]]) {
      const receiver = client.createReceiver("events", name);
      const found = await take(receiver, expected.length);
      assert.deepEqual(bodies(found), expected);
      for (const message of found) await receiver.completeMessage(message);
      assert.deepEqual(await receiver.peekMessages(5), []);
      await receiver.close();
    }
  },

  async "rules of a subscription"() {
    const rules = client.createRuleManager("ruled-events", "ruled");
    await rules.deleteRule("$Default");
    await rules.createRule("large", { sqlExpression: "total > 100" });
    await rules.createRule("eu", { subject: "order", applicationProperties: { region: "eu" } });
    const found = [];
    for await (const rule of rules.listRules()) found.push(rule);
    assert.deepEqual(found.map((rule) => rule.name).sort(), ["eu", "large"]);
    const byName = Object.fromEntries(found.map((rule) => [rule.name, rule.filter]));
    assert.equal(byName.large.sqlExpression, "total > 100");
    assert.equal(byName.eu.subject, "order");
    assert.deepEqual(byName.eu.applicationProperties, { region: "eu" });
    await assert.rejects(rules.createRule("bad", { sqlExpression: "total >" }));
    await assert.rejects(rules.deleteRule("unknown"));
    await send(
      "ruled-events",
      { body: 1, subject: "order", applicationProperties: { region: "eu", total: 5 } },
      { body: 2, subject: "order", applicationProperties: { region: "us", total: 5 } },
      { body: 3, subject: "offer", applicationProperties: { region: "us", total: 500 } },
    );
    const receiver = client.createReceiver("ruled-events", "ruled");
    assert.deepEqual(bodies(await take(receiver, 2)), [1, 3]);
    await receiver.close();
  },

  async "what is not there"() {
    const receiver = client.createReceiver("nowhere");
    await assert.rejects(receiver.receiveMessages(1, wait), { code: "MessagingEntityNotFound" });
    await receiver.close();
    await assert.rejects(send("sessions", { body: 1 }), /SessionId was not set/);
  },

  async "a wrong key"() {
    const wrong = new ServiceBusClient(connection.replace(/SharedAccessKey=[^;]+/, "SharedAccessKey=wrong"), options);
    const sender = wrong.createSender("queue-0");
    await assert.rejects(sender.sendMessages({ body: 1 }), { code: "UnauthorizedAccess" });
    await wrong.close();
  },
};

for (const [name, run] of Object.entries(capabilities)) {
  let problem = null;
  try {
    await run();
  } catch (error) {
    problem = String(error.stack ?? error);
  }
  console.log(JSON.stringify({ name, problem }));
}
await client.close();
process.exit(0);
