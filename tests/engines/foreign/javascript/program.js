// Client and worker of the JavaScript SDK, against the address given: prints one JSON object of what came out.
"use strict";
const grpc = require("@grpc/grpc-js");
const sdk = require("@microsoft/durabletask-js");

const [hostAddress, taskHub] = process.argv.slice(2);
const PATIENCE = 60;
const Status = sdk.ProtoOrchestrationStatus;
const nameOf = (state) => Object.keys(Status).find((name) => Status[name] === state.runtimeStatus).split("_").pop();
const options = {
  hostAddress,
  logger: new sdk.NoOpLogger(),
  metadataGenerator: async () => {
    const metadata = new grpc.Metadata();
    metadata.set("taskhub", taskHub);
    return metadata;
  },
};

const soon = (ctx, ms) => ctx.createTimer(new Date(ctx.currentUtcDateTime.getTime() + ms));
const unsteady = new Map();

class Counter extends sdk.TaskEntity {
  add(amount) {
    this.state.value += amount;
    return this.state.value;
  }
  initializeState() {
    return { value: 0 };
  }
}

const work = {
  greet: async function* (ctx, name) {
    return yield ctx.callActivity("hello", name);
  },
  retried: async function* (ctx) {
    const policy = new sdk.RetryPolicy({ maxNumberOfAttempts: 3, firstRetryIntervalInMilliseconds: 20 });
    return yield ctx.callActivity("flaky", ctx.instanceId, { retry: policy });
  },
  fanned: async function* (ctx, count) {
    const tasks = Array.from({ length: count }, (_, number) => ctx.callActivity("double", number));
    return (yield sdk.whenAll(tasks)).reduce((sum, each) => sum + each, 0);
  },
  timed: async function* (ctx) {
    const began = ctx.currentUtcDateTime.getTime();
    yield soon(ctx, 100);
    return ctx.currentUtcDateTime.getTime() - began >= 100;
  },
  waits: async function* (ctx) {
    ctx.setCustomStatus("waiting");
    return yield ctx.waitForExternalEvent("go");
  },
  parent: async function* (ctx, number) {
    return yield ctx.callSubOrchestrator("child", number);
  },
  child: async function* (ctx, number) {
    return yield ctx.callActivity("double", number);
  },
  again: async function* (ctx, number) {
    const event = yield ctx.waitForExternalEvent("step");
    if (number < 3) {
      ctx.continueAsNew(number + event, true);
      return;
    }
    return number;
  },
  broken: async function* () {
    throw new Error("on purpose");
  },
  visits: async function* (ctx, key) {
    const one = new sdk.EntityInstanceId("counter", key);
    const two = new sdk.EntityInstanceId("counter", `${key}-two`);
    const lock = yield ctx.entities.lockEntities(one, two);
    const first = yield ctx.entities.callEntity(one, "add", 5);
    const second = yield ctx.entities.callEntity(two, "add", first);
    lock.release();
    return [first, second];
  },
};

async function main() {
  const worker = new sdk.TaskHubGrpcWorker(options);
  for (const [name, orchestrator] of Object.entries(work)) worker.addNamedOrchestrator(name, orchestrator);
  worker.addNamedActivity("hello", async (_, name) => `Hello, ${name}!`);
  worker.addNamedActivity("double", async (_, number) => number * 2);
  worker.addNamedActivity("flaky", async (_, id) => {
    unsteady.set(id, (unsteady.get(id) ?? 0) + 1);
    if (unsteady.get(id) < 3) throw new Error("not yet");
    return unsteady.get(id);
  });
  worker.addNamedEntity("counter", () => new Counter());
  await worker.start();
  const client = new sdk.TaskHubGrpcClient(options);
  const found = {};

  const start = (name, input, id) => client.scheduleNewOrchestration(name, input, id);
  const end = (id) => client.waitForOrchestrationCompletion(id, true, PATIENCE);
  const output = async (name, input) => JSON.parse((await end(await start(name, input))).serializedOutput ?? "null");
  const until = async (ask) => {
    for (let tries = 0; tries < PATIENCE * 20; tries++) {
      const answer = await ask();
      if (answer !== undefined) return answer;
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
    throw new Error(`it never came to ${ask}`);
  };
  const status = async (id) => nameOf(await client.getOrchestrationState(id));
  const refused = (call) => call.then(() => "taken", (error) => grpc.status[error.code] ?? error.message);

  found.activity = await output("greet", "Ada");
  found.retries = await output("retried");
  found.fan_out = await output("fanned", 100);
  found.timer = await output("timed");
  found.child = await output("parent", 21);
  found.start_at = JSON.parse(
    (await end(await client.scheduleNewOrchestration("greet", "later", "js-later", new Date(Date.now() + 200)))).serializedOutput);

  await start("waits", null, "js-event");
  await client.raiseOrchestrationEvent("js-event", "go", { seven: 7 });
  found.event = JSON.parse((await end("js-event")).serializedOutput);
  found.event_to_nobody = await refused(client.raiseOrchestrationEvent("js-nobody", "go", 1));
  found.event_too_late = await refused(client.raiseOrchestrationEvent("js-event", "go", 1));
  found.start_over = JSON.parse((await end(await start("greet", "again", "js-later"))).serializedOutput);

  await start("again", 0, "js-again");
  for (let number = 0; number < 4; number++) await client.raiseOrchestrationEvent("js-again", "step", 1);
  found.continue_as_new = JSON.parse((await end("js-again")).serializedOutput);

  await start("waits", null, "js-terminated");
  await client.waitForOrchestrationStart("js-terminated", false, PATIENCE);
  await client.terminateOrchestration("js-terminated", "enough");
  const terminated = await end("js-terminated");
  found.terminate = [nameOf(terminated), JSON.parse(terminated.serializedOutput)];

  await start("waits", null, "js-suspended");
  await client.waitForOrchestrationStart("js-suspended", false, PATIENCE);
  await client.suspendOrchestration("js-suspended");
  await client.raiseOrchestrationEvent("js-suspended", "go", "kept");
  found.suspend = await status("js-suspended");
  found.start_twice = await refused(start("waits", null, "js-suspended"));
  await client.resumeOrchestration("js-suspended");
  found.resume = JSON.parse((await end("js-suspended")).serializedOutput);

  const broken = await end(await start("broken", null, "js-broken"));
  found.failure = [nameOf(broken), broken.failureDetails.message];
  found.restart = await refused(client.restartOrchestration("js-suspended", true).then((id) => client.getOrchestrationState(id)));

  const counter = new sdk.EntityInstanceId("counter", "js");
  await client.signalEntity(counter, "add", 1);
  await client.signalEntity(counter, "add", 1, { signalTime: new Date(Date.now() + 100) });
  found.entity = await until(async () => {
    const entity = await client.getEntity(counter);
    return entity?.state?.value === 2 ? entity.state : undefined;
  });
  found.entity_calls = await output("visits", "js");
  found.entities = await until(async () => {
    const all = [];
    for await (const entity of client.getEntities({ instanceIdStartsWith: "@counter@js" })) all.push(entity);
    return all.every((entity) => !entity.lockedBy) ? all.map((each) => [each.id.key, each.state.value]) : undefined;
  });

  const ids = [];
  for await (const each of client.getAllInstances({ instanceIdPrefix: "js-", pageSize: 2 })) ids.push(each.instanceId);
  found.query = ids.sort();
  const failed = { statuses: [Status.ORCHESTRATION_STATUS_FAILED], instanceIdPrefix: "js-" };
  found.query_status = [];
  for await (const each of client.getAllInstances(failed)) found.query_status.push(each.instanceId);
  const history = await client.getOrchestrationHistory("js-event");
  found.history = history.map((event) => event.type);
  const page = await client.listInstanceIds({ pageSize: 3 });
  found.list = [page.values.length, page.hasMoreResults];
  const listed = [];
  for (let pages = 0, key; ; pages++) {
    const some = await client.listInstanceIds({ pageSize: 3, lastInstanceKey: key });
    if (some.values.length === 0) break;
    listed.push(...some.values);
    // In turn the page's own key and the last id on it: exports of histories use the one or the other.
    key = pages % 2 ? some.values.at(-1) : some.continuationToken;
  }
  found.listed = [new Set(listed).size === listed.length, listed.filter((id) => id.startsWith("js-")).length];
  found.purge = (await client.purgeOrchestration("js-broken")).deletedInstanceCount;
  found.purged = (await client.getOrchestrationState("js-broken")) === undefined;

  console.log(JSON.stringify(found));
  await client.stop();
  await worker.stop();
}

main().then(
  () => process.exit(0),
  (error) => {
    console.error(error);
    process.exit(1);
  },
);
