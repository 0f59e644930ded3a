// Worker in Go for the orchestration `order`, which rules of the bridge start: go run . HOST:PORT
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log"
	"os"

	"github.com/microsoft/durabletask-go/backend"
	"github.com/microsoft/durabletask-go/client"
	"github.com/microsoft/durabletask-go/task"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// Start inputs and events of the bridge are {"bridge:message": {"v": 1, "id": ..., "data": ...}}.
// Data of other senders has no envelope, and is returned as it is.
func data(received json.RawMessage, into any) error {
	var whole map[string]json.RawMessage
	if json.Unmarshal(received, &whole) == nil && len(whole) == 1 && whole["bridge:message"] != nil {
		var message struct {
			V    int             `json:"v"`
			Data json.RawMessage `json:"data"`
		}
		if err := json.Unmarshal(whole["bridge:message"], &message); err != nil {
			return err
		}
		// A later version could mean something else. Members that are not known are ignored.
		if message.V != 1 {
			return fmt.Errorf("an envelope of version %d", message.V)
		}
		received = message.Data
	}
	return json.Unmarshal(received, into)
}

func order(ctx *task.OrchestrationContext) (any, error) {
	var input, event json.RawMessage
	var placed struct{ ID string }
	var paid struct{ Amount float64 }
	var reserved string
	if err := ctx.GetInput(&input); err != nil {
		return nil, err
	}
	if err := data(input, &placed); err != nil {
		return nil, err
	}
	if err := ctx.CallActivity("reserve", task.WithActivityInput(placed.ID)).Await(&reserved); err != nil {
		return nil, err
	}
	if err := ctx.WaitForSingleEvent("paid", -1).Await(&event); err != nil {
		return nil, err
	}
	if err := data(event, &paid); err != nil {
		return nil, err
	}
	return map[string]any{"id": placed.ID, "reserved": reserved, "paid": paid.Amount}, nil
}

func reserve(ctx task.ActivityContext) (any, error) {
	var id string
	err := ctx.GetInput(&id)
	return "stock for " + id, err
}

func main() {
	work := task.NewTaskRegistry()
	work.AddOrchestratorN("order", order)
	work.AddActivityN("reserve", reserve)
	connection, err := grpc.Dial(os.Args[1], grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		log.Fatal(err)
	}
	hub := client.NewTaskHubGrpcClient(connection, backend.DefaultLogger())
	if err := hub.StartWorkItemListener(context.Background(), work); err != nil {
		log.Fatal(err)
	}
	select {}
}
