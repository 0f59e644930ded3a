// Worker in JavaScript for the orchestration `order`, which rules of the bridge start: node worker.js HOST:PORT
"use strict";
const { TaskHubGrpcWorker } = require("@microsoft/durabletask-js");

// Start inputs and events of the bridge are {"bridge:message": {"v": 1, "id": ..., "data": ...}}.
// Data of other senders has no envelope, and is returned as it is.
function data(received) {
  const message = received?.["bridge:message"];
  if (message === undefined || Object.keys(received).length !== 1) {
    return received;
  }
  // A later version could mean something else. Members that are not known are ignored.
  if (message.v !== 1) {
    throw new Error(`an envelope of version ${message.v}`);
  }
  return message.data;
}

async function* order(ctx, input) {
  const { id } = data(input);
  const reserved = yield ctx.callActivity("reserve", id);
  const paid = data(yield ctx.waitForExternalEvent("paid"));
  return { id, reserved, paid: paid.amount };
}

const worker = new TaskHubGrpcWorker({ hostAddress: process.argv[2] });
worker.addNamedOrchestrator("order", order);
worker.addNamedActivity("reserve", async (_, id) => `stock for ${id}`);
worker.start();
