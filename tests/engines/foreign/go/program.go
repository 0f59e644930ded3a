// Client and worker of the Go SDK, against the address given: prints one JSON object of what came out.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"sync/atomic"
	"time"

	"github.com/microsoft/durabletask-go/api"
	"github.com/microsoft/durabletask-go/backend"
	"github.com/microsoft/durabletask-go/client"
	"github.com/microsoft/durabletask-go/task"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

var unsteady atomic.Int32

func registry() *task.TaskRegistry {
	found := task.NewTaskRegistry()
	work := map[string]task.Orchestrator{
		"greet": func(ctx *task.OrchestrationContext) (any, error) {
			var name, greeting string
			must(ctx.GetInput(&name))
			return greeting, await(ctx.CallActivity("hello", task.WithActivityInput(name)), &greeting)
		},
		"retried": func(ctx *task.OrchestrationContext) (any, error) {
			var tries int
			policy := &task.RetryPolicy{MaxAttempts: 3, InitialRetryInterval: 20 * time.Millisecond, BackoffCoefficient: 1}
			return tries, await(ctx.CallActivity("flaky", task.WithActivityRetryPolicy(policy)), &tries)
		},
		"fanned": func(ctx *task.OrchestrationContext) (any, error) {
			var count, sum int
			must(ctx.GetInput(&count))
			tasks := []task.Task{}
			for number := 0; number < count; number++ {
				tasks = append(tasks, ctx.CallActivity("double", task.WithActivityInput(number)))
			}
			for _, each := range tasks {
				var doubled int
				if err := each.Await(&doubled); err != nil {
					return nil, err
				}
				sum += doubled
			}
			return sum, nil
		},
		"timed": func(ctx *task.OrchestrationContext) (any, error) {
			began := ctx.CurrentTimeUtc
			err := ctx.CreateTimer(100 * time.Millisecond).Await(nil)
			return ctx.CurrentTimeUtc.Sub(began) >= 100*time.Millisecond, err
		},
		"waits": func(ctx *task.OrchestrationContext) (any, error) {
			var data any
			ctx.SetCustomStatus("waiting")
			return data, await(ctx.WaitForSingleEvent("go", -1), &data)
		},
		"parent": func(ctx *task.OrchestrationContext) (any, error) {
			var number int
			must(ctx.GetInput(&number))
			return number, await(ctx.CallSubOrchestrator("child", task.WithSubOrchestratorInput(number)), &number)
		},
		"child": func(ctx *task.OrchestrationContext) (any, error) {
			var number int
			must(ctx.GetInput(&number))
			return number, await(ctx.CallActivity("double", task.WithActivityInput(number)), &number)
		},
		"again": func(ctx *task.OrchestrationContext) (any, error) {
			var number, step int
			must(ctx.GetInput(&number))
			if err := ctx.WaitForSingleEvent("step", -1).Await(&step); err != nil {
				return nil, err
			}
			if number < 3 {
				ctx.ContinueAsNew(number+step, task.WithKeepUnprocessedEvents())
			}
			return number, nil
		},
		"broken": func(ctx *task.OrchestrationContext) (any, error) { return nil, errors.New("on purpose") },
	}
	for name, orchestrator := range work {
		must(found.AddOrchestratorN(name, orchestrator))
	}
	must(found.AddActivityN("hello", func(ctx task.ActivityContext) (any, error) {
		var name string
		return "Hello, " + named(ctx, &name) + "!", nil
	}))
	must(found.AddActivityN("double", func(ctx task.ActivityContext) (any, error) {
		var number int
		err := ctx.GetInput(&number)
		return number * 2, err
	}))
	must(found.AddActivityN("flaky", func(ctx task.ActivityContext) (any, error) {
		if tries := unsteady.Add(1); tries < 3 {
			return nil, errors.New("not yet")
		}
		return unsteady.Load(), nil
	}))
	return found
}

func named(ctx task.ActivityContext, name *string) string {
	must(ctx.GetInput(name))
	return *name
}

func await(each task.Task, into any) error { return each.Await(into) }

func must(err error) {
	if err != nil {
		panic(err)
	}
}

func refused(err error) string {
	if err == nil {
		return "taken"
	}
	for cause := err; cause != nil; cause = errors.Unwrap(cause) {
		if told, ok := status.FromError(cause); ok {
			return told.Code().String()
		}
	}
	return err.Error()
}

func main() {
	hub := os.Args[2]
	named := func(ctx context.Context) context.Context {
		return metadata.AppendToOutgoingContext(ctx, "taskhub", hub)
	}
	connection, err := grpc.Dial(os.Args[1], grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithUnaryInterceptor(func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, call grpc.UnaryInvoker, opts ...grpc.CallOption) error {
			return call(named(ctx), method, req, reply, cc, opts...)
		}),
		grpc.WithStreamInterceptor(func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, stream grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
			return stream(named(ctx), desc, cc, method, opts...)
		}))
	must(err)
	ctx, cancel := context.WithTimeout(context.Background(), 90*time.Second)
	defer cancel()
	log.SetOutput(io.Discard)
	hubs := client.NewTaskHubGrpcClient(connection, backend.DefaultLogger())
	must(hubs.StartWorkItemListener(ctx, registry()))
	found := map[string]any{}

	start := func(name string, input any, id string, more ...api.NewOrchestrationOptions) api.InstanceID {
		options := append([]api.NewOrchestrationOptions{api.WithInput(input)}, more...)
		if id != "" {
			options = append(options, api.WithInstanceID(api.InstanceID(id)))
		}
		started, err := hubs.ScheduleNewOrchestration(ctx, name, options...)
		must(err)
		return started
	}
	end := func(id api.InstanceID) *api.OrchestrationMetadata {
		state, err := hubs.WaitForOrchestrationCompletion(ctx, id, api.WithFetchPayloads(true))
		must(err)
		return state
	}
	output := func(id api.InstanceID) any {
		var value any
		must(json.Unmarshal([]byte(end(id).SerializedOutput), &value))
		return value
	}
	raise := func(id api.InstanceID, name string, data any) error {
		return hubs.RaiseEvent(ctx, id, name, api.WithEventPayload(data))
	}

	found["activity"] = output(start("greet", "Ada", ""))
	found["retries"] = output(start("retried", nil, ""))
	found["fan_out"] = output(start("fanned", 100, ""))
	found["timer"] = output(start("timed", nil, ""))
	found["child"] = output(start("parent", 21, ""))
	found["start_at"] = output(start("greet", "later", "go-later", api.WithStartTime(time.Now().Add(200*time.Millisecond))))

	event := start("waits", nil, "go-event")
	must(raise(event, "go", map[string]int{"seven": 7}))
	found["event"] = output(event)
	found["event_to_nobody"] = refused(raise("go-nobody", "go", 1))
	found["event_too_late"] = refused(raise(event, "go", 1))
	found["start_over"] = output(start("greet", "again", "go-later"))

	again := start("again", 0, "go-again")
	for number := 0; number < 4; number++ {
		must(raise(again, "step", 1))
	}
	found["continue_as_new"] = output(again)

	terminated := start("waits", nil, "go-terminated")
	_, err = hubs.WaitForOrchestrationStart(ctx, terminated)
	must(err)
	// An id that is in use: this SDK can ask for the start to be left undone.
	policy := &api.OrchestrationIdReusePolicy{
		OperationStatus: []api.OrchestrationStatus{api.RUNTIME_STATUS_RUNNING}, Action: api.REUSE_ID_ACTION_IGNORE,
	}
	start("waits", nil, "go-terminated", api.WithOrchestrationIdReusePolicy(policy))
	must(hubs.TerminateOrchestration(ctx, terminated, api.WithOutput("enough")))
	state := end(terminated)
	found["terminate"] = []any{state.RuntimeStatus.String(), output(terminated)}

	suspended := start("waits", nil, "go-suspended")
	_, err = hubs.WaitForOrchestrationStart(ctx, suspended)
	must(err)
	started, err := hubs.FetchOrchestrationMetadata(ctx, suspended)
	must(err)
	start("waits", nil, "go-suspended", api.WithOrchestrationIdReusePolicy(policy))
	must(hubs.SuspendOrchestration(ctx, suspended, "a moment"))
	must(raise(suspended, "go", "kept"))
	state, err = hubs.FetchOrchestrationMetadata(ctx, suspended)
	must(err)
	found["suspend"] = state.RuntimeStatus.String()
	found["start_ignored"] = state.CreatedAt.Equal(started.CreatedAt)
	_, err = hubs.ScheduleNewOrchestration(ctx, "waits", api.WithInstanceID(suspended))
	found["start_twice"] = refused(err)
	must(hubs.ResumeOrchestration(ctx, suspended, "go on"))
	found["resume"] = output(suspended)

	found["failure"] = end(start("broken", nil, "go-broken")).RuntimeStatus.String()
	must(hubs.PurgeOrchestrationState(ctx, "go-broken"))
	_, err = hubs.FetchOrchestrationMetadata(ctx, "go-broken")
	found["purged"] = errors.Is(err, api.ErrInstanceNotFound)

	told, err := json.Marshal(found)
	must(err)
	fmt.Println(string(told))
}
