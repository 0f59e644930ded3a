// Worker in Java for the orchestration `order`, which rules of the bridge start: java OrderWorker.java HOST:PORT

import com.fasterxml.jackson.databind.JsonNode;
import com.microsoft.durabletask.*;
import io.grpc.netty.shaded.io.grpc.netty.NettyChannelBuilder;
import java.util.Map;

public class OrderWorker {
    // Start inputs and events of the bridge are {"bridge:message": {"v": 1, "id": ..., "data": ...}}.
    // Data of other senders has no envelope, and is returned as it is.
    static JsonNode data(JsonNode received) {
        if (received == null || !received.isObject() || received.size() != 1) {
            return received;
        }
        JsonNode message = received.get("bridge:message");
        if (message == null) {
            return received;
        }
        // A later version could mean something else. Members that are not known are ignored.
        if (message.path("v").asInt() != 1) {
            throw new IllegalArgumentException("an envelope of version " + message.path("v"));
        }
        return message.get("data");
    }

    static void order(TaskOrchestrationContext ctx) {
        JsonNode order = data(ctx.getInput(JsonNode.class));
        String reserved = ctx.callActivity("reserve", order.get("id").asText(), String.class).await();
        JsonNode paid = data(ctx.waitForExternalEvent("paid", JsonNode.class).await());
        ctx.complete(Map.of("id", order.get("id"), "reserved", reserved, "paid", paid.get("amount")));
    }

    record Order() implements TaskOrchestrationFactory {
        public String getName() { return "order"; }
        public TaskOrchestration create() { return OrderWorker::order; }
    }

    record Reserve() implements TaskActivityFactory {
        public String getName() { return "reserve"; }
        public TaskActivity create() { return ctx -> "stock for " + ctx.getInput(String.class); }
    }

    public static void main(String[] args) {
        var channel = NettyChannelBuilder.forTarget(args[0]).usePlaintext().build();
        new DurableTaskGrpcWorkerBuilder().grpcChannel(channel)
            .addOrchestration(new Order()).addActivity(new Reserve()).build().startAndBlock();
    }
}
