// Client and worker of the Java SDK, against the address given: prints one JSON object of what came out.

import com.fasterxml.jackson.databind.ObjectMapper;
import com.microsoft.durabletask.*;
import io.grpc.ManagedChannel;
import io.grpc.Metadata;
import io.grpc.StatusRuntimeException;
import io.grpc.netty.shaded.io.grpc.netty.NettyChannelBuilder;
import io.grpc.stub.MetadataUtils;
import java.time.Duration;
import java.time.Instant;
import java.util.*;
import java.util.concurrent.Callable;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.stream.*;

public class Program {
    static final Duration PATIENCE = Duration.ofSeconds(60);
    static final AtomicInteger unsteady = new AtomicInteger();

    record Work(String getName, TaskOrchestration create) implements TaskOrchestrationFactory {}

    record Task(String getName, TaskActivity create) implements TaskActivityFactory {}

    static DurableTaskGrpcWorker worker(ManagedChannel channel) {
        var builder = new DurableTaskGrpcWorkerBuilder().grpcChannel(channel);
        Map<String, TaskOrchestration> work = new LinkedHashMap<>();
        work.put("greet", ctx -> ctx.complete(ctx.callActivity("hello", ctx.getInput(String.class), String.class).await()));
        work.put("retried", ctx -> {
            var policy = new TaskOptions(new RetryPolicy(3, Duration.ofMillis(20)));
            ctx.complete(ctx.callActivity("flaky", null, policy, Integer.class).await());
        });
        work.put("fanned", ctx -> {
            var tasks = IntStream.range(0, ctx.getInput(Integer.class))
                .mapToObj(number -> ctx.callActivity("double", number, Integer.class)).collect(Collectors.toList());
            ctx.complete(ctx.allOf(tasks).await().stream().mapToInt(each -> each).sum());
        });
        work.put("timed", ctx -> {
            Instant began = ctx.getCurrentInstant();
            ctx.createTimer(Duration.ofMillis(100)).await();
            ctx.complete(Duration.between(began, ctx.getCurrentInstant()).toMillis() >= 100);
        });
        work.put("waits", ctx -> {
            ctx.setCustomStatus("waiting");
            ctx.complete(ctx.waitForExternalEvent("go", Object.class).await());
        });
        work.put("parent", ctx -> ctx.complete(
            ctx.callSubOrchestrator("child", ctx.getInput(Integer.class), Integer.class).await()));
        work.put("child", ctx -> ctx.complete(ctx.callActivity("double", ctx.getInput(Integer.class), Integer.class).await()));
        work.put("again", ctx -> {
            // Each execution reads an event of its own name: this SDK carries events over that were read already.
            int number = ctx.getInput(Integer.class);
            int step = ctx.waitForExternalEvent("step-" + number, Integer.class).await();
            if (number < 3) {
                ctx.continueAsNew(number + step, true);
            } else {
                ctx.complete(number);
            }
        });
        work.put("broken", ctx -> { throw new IllegalStateException("on purpose"); });
        work.forEach((name, orchestration) -> builder.addOrchestration(new Work(name, orchestration)));
        builder.addActivity(new Task("hello", ctx -> "Hello, " + ctx.getInput(String.class) + "!"));
        builder.addActivity(new Task("double", ctx -> ctx.getInput(Integer.class) * 2));
        builder.addActivity(new Task("flaky", ctx -> {
            if (unsteady.incrementAndGet() < 3) throw new IllegalStateException("not yet");
            return unsteady.get();
        }));
        return builder.build();
    }

    static String refused(Callable<?> call) throws Exception {
        try {
            call.call();
            return "taken";
        } catch (StatusRuntimeException error) {
            return error.getStatus().getCode().name();
        }
    }

    static Callable<Void> raise(DurableTaskClient client, String id, Object data) {
        return () -> { client.raiseEvent(id, "go", data); return null; };
    }

    static OrchestrationMetadata end(DurableTaskClient client, String id) throws Exception {
        return client.waitForInstanceCompletion(id, PATIENCE, true);
    }

    static <T> T output(DurableTaskClient client, String name, Object input, Class<T> type) throws Exception {
        return end(client, client.scheduleNewOrchestrationInstance(name, input)).readOutputAs(type);
    }

    public static void main(String[] args) {
        try {
            System.out.println(new ObjectMapper().writeValueAsString(found(args)));
            System.exit(0);
        } catch (Throwable error) {
            // The threads of the worker would keep the process alive.
            error.printStackTrace();
            System.exit(1);
        }
    }

    static Map<String, Object> found(String[] args) throws Exception {
        String[] address = args[0].split(":");
        var headers = new Metadata();
        headers.put(Metadata.Key.of("taskhub", Metadata.ASCII_STRING_MARSHALLER), args[1]);
        ManagedChannel channel = NettyChannelBuilder.forAddress(address[0], Integer.parseInt(address[1])).usePlaintext()
            .intercept(MetadataUtils.newAttachHeadersInterceptor(headers)).build();
        DurableTaskClient client = new DurableTaskGrpcClientBuilder().grpcChannel(channel).build();
        client.createTaskHub(true);
        worker(channel).start();
        var found = new LinkedHashMap<String, Object>();

        found.put("activity", output(client, "greet", "Ada", String.class));
        found.put("retries", output(client, "retried", null, Integer.class));
        found.put("fan_out", output(client, "fanned", 100, Integer.class));
        found.put("timer", output(client, "timed", null, Boolean.class));
        found.put("child", output(client, "parent", 21, Integer.class));
        client.scheduleNewOrchestrationInstance("greet", new NewOrchestrationInstanceOptions()
            .setInput("later").setInstanceId("java-later").setStartTime(Instant.now().plusMillis(200)));
        found.put("start_at", end(client, "java-later").readOutputAs(String.class));

        client.scheduleNewOrchestrationInstance("waits", null, "java-event");
        client.raiseEvent("java-event", "go", Map.of("seven", 7));
        found.put("event", end(client, "java-event").readOutputAs(Object.class));
        found.put("event_to_nobody", refused(raise(client, "java-nobody", 1)));
        found.put("event_too_late", refused(raise(client, "java-event", 1)));
        client.restartInstance("java-later", false);
        found.put("start_over", end(client, "java-later").readOutputAs(String.class));

        client.scheduleNewOrchestrationInstance("again", 0, "java-again");
        // In reverse order, so that all but one are unread when the first execution ends.
        for (int number = 3; number >= 0; number--) client.raiseEvent("java-again", "step-" + number, 1);
        found.put("continue_as_new", end(client, "java-again").readOutputAs(Integer.class));

        client.scheduleNewOrchestrationInstance("waits", null, "java-terminated");
        client.waitForInstanceStart("java-terminated", PATIENCE);
        client.terminate("java-terminated", "enough");
        var terminated = end(client, "java-terminated");
        found.put("terminate", List.of(terminated.getRuntimeStatus().name(), terminated.readOutputAs(String.class)));

        client.scheduleNewOrchestrationInstance("waits", null, "java-suspended");
        client.waitForInstanceStart("java-suspended", PATIENCE);
        client.suspendInstance("java-suspended", "a moment");
        client.raiseEvent("java-suspended", "go", "kept");
        found.put("suspend", client.getInstanceMetadata("java-suspended", false).getRuntimeStatus().name());
        found.put("start_twice", refused(() -> client.scheduleNewOrchestrationInstance("waits", null, "java-suspended")));
        client.resumeInstance("java-suspended", "go on");
        found.put("resume", end(client, "java-suspended").readOutputAs(String.class));

        var broken = end(client, client.scheduleNewOrchestrationInstance("broken", null, "java-broken"));
        found.put("failure", List.of(broken.getRuntimeStatus().name(), broken.getFailureDetails().getErrorMessage()));
        found.put("restart", refused(() -> client.restartInstance("java-suspended", true)));

        var ids = new TreeSet<String>();
        String token = null;
        do {
            var page = client.queryInstances(new OrchestrationStatusQuery()
                .setInstanceIdPrefix("java-").setMaxInstanceCount(2).setContinuationToken(token));
            page.getOrchestrationState().forEach(each -> ids.add(each.getInstanceId()));
            token = page.getContinuationToken();
        } while (token != null && !token.isEmpty());
        found.put("query", ids);
        var failed = client.queryInstances(new OrchestrationStatusQuery()
            .setInstanceIdPrefix("java-").setRuntimeStatusList(List.of(OrchestrationRuntimeStatus.FAILED)));
        found.put("query_status", failed.getOrchestrationState().stream().map(OrchestrationMetadata::getInstanceId).toList());
        found.put("purge", client.purgeInstance("java-broken").getDeletedInstanceCount());
        found.put("purged", !client.getInstanceMetadata("java-broken", false).isInstanceFound());
        client.deleteTaskHub();
        found.put("deleted", !client.getInstanceMetadata("java-event", false).isInstanceFound());

        return found;
    }
}
