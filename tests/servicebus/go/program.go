// What the Go SDK can do with the server, one capability after the other.
// Prints one JSON object a line: {"name": ..., "problem": null or text}. The server's connection string comes in
// SERVICEBUS_CONNECTION; it must have the entities that test_go.py gives it.
// This SDK counts the delivery at hand: its delivery count is the header's plus one.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	sb "github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"
)

const patience = 15 * time.Second

var (
	client *sb.Client
	queues int
)

type failure string

// check ends a capability when something is not as it must be.
func check(holds bool, format string, values ...any) {
	if !holds {
		panic(failure(fmt.Sprintf(format, values...)))
	}
}

func must(err error) {
	check(err == nil, "%v", err)
}

func get[T any](value T, err error) T {
	must(err)
	return value
}

func refused(err error, code sb.Code) {
	var known *sb.Error
	check(errors.As(err, &known) && known.Code == code, "%v, not %s", err, code)
}

// own is the name of a queue that no other capability uses.
func own() string {
	queues++
	return fmt.Sprintf("queue-%d", queues-1)
}

func pointer[T any](value T) *T { return &value }

func texts(bodies ...string) []*sb.Message {
	messages := []*sb.Message{}
	for _, body := range bodies {
		messages = append(messages, &sb.Message{Body: []byte(body)})
	}
	return messages
}

func send(ctx context.Context, path string, messages ...*sb.Message) {
	sender := get(client.NewSender(path, nil))
	defer sender.Close(ctx)
	for _, message := range messages {
		must(sender.SendMessage(ctx, message, nil))
	}
}

type receiver interface {
	ReceiveMessages(context.Context, int, *sb.ReceiveMessagesOptions) ([]*sb.ReceivedMessage, error)
	PeekMessages(context.Context, int, *sb.PeekMessagesOptions) ([]*sb.ReceivedMessage, error)
	CompleteMessage(context.Context, *sb.ReceivedMessage, *sb.CompleteMessageOptions) error
}

func take(ctx context.Context, from receiver, count int) []*sb.ReceivedMessage {
	found := []*sb.ReceivedMessage{}
	for len(found) < count {
		found = append(found, get(from.ReceiveMessages(ctx, count-len(found), nil))...)
	}
	return found
}

func bodies(messages []*sb.ReceivedMessage) []string {
	found := []string{}
	for _, message := range messages {
		found = append(found, string(message.Body))
	}
	return found
}

func same(found []string, expected ...string) {
	check(slices.Equal(found, expected), "%v, not %v", found, expected)
}

func complete(ctx context.Context, at receiver, messages []*sb.ReceivedMessage) {
	for _, message := range messages {
		must(at.CompleteMessage(ctx, message, nil))
	}
}

func empty(ctx context.Context, at receiver) {
	first := int64(1)
	same(bodies(get(at.PeekMessages(ctx, 5, &sb.PeekMessagesOptions{FromSequenceNumber: &first}))))
}

func dead(queue string) *sb.Receiver {
	return get(client.NewReceiverForQueue(queue, &sb.ReceiverOptions{SubQueue: sb.SubQueueDeadLetter}))
}

var capabilities = []struct {
	name string
	run  func(context.Context)
}{
	{"send and receive", func(ctx context.Context) {
		queue := own()
		sent := &sb.Message{
			Body: []byte("ž"), MessageID: pointer("id-1"), Subject: pointer("order.created"),
			ContentType: pointer("application/json"), CorrelationID: pointer("c-1"), To: pointer("somewhere"),
			ReplyTo: pointer("back"), PartitionKey: pointer("p"), TimeToLive: pointer(time.Hour),
			ApplicationProperties: map[string]any{"text": "ž", "number": int64(7), "yes": true, "half": 0.5},
		}
		send(ctx, queue, sent)
		at := get(client.NewReceiverForQueue(queue, nil))
		defer at.Close(ctx)
		got := take(ctx, at, 1)[0]
		check(string(got.Body) == "ž" && got.MessageID == "id-1", "%s %s", got.Body, got.MessageID)
		check(*got.Subject == "order.created" && *got.ContentType == "application/json", "subject or content type")
		check(*got.CorrelationID == "c-1" && *got.To == "somewhere" && *got.ReplyTo == "back", "addresses")
		check(*got.PartitionKey == "p" && *got.TimeToLive == time.Hour, "partition key or time to live")
		for name, value := range sent.ApplicationProperties {
			check(got.ApplicationProperties[name] == value, "%s is %v", name, got.ApplicationProperties[name])
		}
		check(got.DeliveryCount == 1 && *got.SequenceNumber == 1, "delivery count or sequence number")
		check(got.State == sb.MessageStateActive, "state %v", got.State)
		check(time.Since(*got.EnqueuedTime).Abs() < 10*time.Second, "enqueued %v", got.EnqueuedTime)
		check(time.Until(*got.LockedUntil) > 10*time.Second, "locked until %v", got.LockedUntil)
		check(got.LockToken != [16]byte{}, "no lock token")
		must(at.CompleteMessage(ctx, got, nil))
		empty(ctx, at)
	}},

	{"a large message in several frames", func(ctx context.Context) {
		queue := own()
		body := bytes.Repeat([]byte{7}, 200_000)
		send(ctx, queue, &sb.Message{Body: body})
		at := get(client.NewReceiverForQueue(queue, nil))
		defer at.Close(ctx)
		found := take(ctx, at, 1)
		check(bytes.Equal(found[0].Body, body), "another body")
		complete(ctx, at, found)
	}},

	{"batch by size", func(ctx context.Context) {
		queue := own()
		sender := get(client.NewSender(queue, nil))
		defer sender.Close(ctx)
		batch := get(sender.NewMessageBatch(ctx, nil))
		for {
			err := batch.AddMessage(&sb.Message{Body: bytes.Repeat([]byte("x"), 10_000)}, nil)
			if errors.Is(err, sb.ErrMessageTooLarge) {
				break
			}
			must(err)
		}
		check(batch.NumMessages() >= 25, "%d messages in a batch", batch.NumMessages())
		must(sender.SendMessageBatch(ctx, batch, nil))
		at := get(client.NewReceiverForQueue(queue, nil))
		defer at.Close(ctx)
		complete(ctx, at, take(ctx, at, int(batch.NumMessages())))
		err := sender.SendMessage(ctx, &sb.Message{Body: bytes.Repeat([]byte("x"), 300_000)}, nil)
		check(errors.Is(err, sb.ErrMessageTooLarge), "%v", err)
	}},

	{"abandon with properties", func(ctx context.Context) {
		queue := own()
		send(ctx, queue, texts("1")...)
		at := get(client.NewReceiverForQueue(queue, nil))
		defer at.Close(ctx)
		first := take(ctx, at, 1)[0]
		changes := map[string]any{"tries": int32(1)}
		must(at.AbandonMessage(ctx, first, &sb.AbandonMessageOptions{PropertiesToModify: changes}))
		again := take(ctx, at, 1)[0]
		check(again.DeliveryCount == 2 && *again.SequenceNumber == *first.SequenceNumber, "%v", again.DeliveryCount)
		check(again.ApplicationProperties["tries"] == int32(1), "properties %v", again.ApplicationProperties)
		must(at.CompleteMessage(ctx, again, nil))
	}},

	{"defer with properties", func(ctx context.Context) {
		queue := own()
		send(ctx, queue, texts("1")...)
		at := get(client.NewReceiverForQueue(queue, nil))
		defer at.Close(ctx)
		first := take(ctx, at, 1)[0]
		changes := map[string]any{"why": "later"}
		must(at.DeferMessage(ctx, first, &sb.DeferMessageOptions{PropertiesToModify: changes}))
		peeked := get(at.PeekMessages(ctx, 1, nil))
		check(len(peeked) == 1 && peeked[0].State == sb.MessageStateDeferred, "not deferred")
		numbers := []int64{*first.SequenceNumber}
		deferred := get(at.ReceiveDeferredMessages(ctx, numbers, nil))[0]
		check(deferred.ApplicationProperties["why"] == "later", "properties %v", deferred.ApplicationProperties)
		check(deferred.LockToken != [16]byte{}, "no lock token")
		// A deferred message is settled over $management
		changes = map[string]any{"why": "again"}
		must(at.AbandonMessage(ctx, deferred, &sb.AbandonMessageOptions{PropertiesToModify: changes}))
		deferred = get(at.ReceiveDeferredMessages(ctx, numbers, nil))[0]
		check(deferred.ApplicationProperties["why"] == "again", "properties %v", deferred.ApplicationProperties)
		must(at.CompleteMessage(ctx, deferred, nil))
		_, err := at.ReceiveDeferredMessages(ctx, numbers, nil)
		check(err != nil, "a deferred message came twice")
	}},

	{"dead-letter, and its queue", func(ctx context.Context) {
		queue := own()
		kept := map[string]any{"kept": "yes"}
		send(ctx, queue, &sb.Message{Body: []byte("1"), ApplicationProperties: kept})
		at := get(client.NewReceiverForQueue(queue, nil))
		defer at.Close(ctx)
		must(at.DeadLetterMessage(ctx, take(ctx, at, 1)[0], &sb.DeadLetterOptions{
			Reason: pointer("why"), ErrorDescription: pointer("because"),
			PropertiesToModify: map[string]any{"more": int64(2)},
		}))
		from := dead(queue)
		defer from.Close(ctx)
		letter := take(ctx, from, 1)[0]
		check(*letter.DeadLetterReason == "why" && *letter.DeadLetterErrorDescription == "because", "another cause")
		properties := letter.ApplicationProperties
		check(properties["kept"] == "yes" && properties["more"] == int64(2), "properties %v", properties)
		must(from.CompleteMessage(ctx, letter, nil))
	}},

	{"too many deliveries", func(ctx context.Context) {
		send(ctx, "three-times", texts("1")...)
		at := get(client.NewReceiverForQueue("three-times", nil))
		defer at.Close(ctx)
		for count := range 3 {
			message := take(ctx, at, 1)[0]
			check(int(message.DeliveryCount) == count+1, "delivery count %d", message.DeliveryCount)
			must(at.AbandonMessage(ctx, message, nil))
		}
		from := dead("three-times")
		defer from.Close(ctx)
		letter := take(ctx, from, 1)[0]
		check(*letter.DeadLetterReason == "MaxDeliveryCountExceeded", "%s", *letter.DeadLetterReason)
		must(from.CompleteMessage(ctx, letter, nil))
	}},

	{"renew a lock, lose a lock", func(ctx context.Context) {
		send(ctx, "short-lock", texts("1")...)
		at := get(client.NewReceiverForQueue("short-lock", nil))
		defer at.Close(ctx)
		message := take(ctx, at, 1)[0]
		for range 4 {
			time.Sleep(500 * time.Millisecond)
			before := *message.LockedUntil
			must(at.RenewMessageLock(ctx, message, nil))
			check(message.LockedUntil.After(before), "not renewed")
		}
		time.Sleep(time.Until(*message.LockedUntil) + 100*time.Millisecond)
		refused(at.CompleteMessage(ctx, message, nil), sb.CodeLockLost)
		again := take(ctx, at, 1)[0]
		check(again.DeliveryCount == 2, "delivery count %d", again.DeliveryCount)
		must(at.CompleteMessage(ctx, again, nil))
	}},

	{"receive and delete", func(ctx context.Context) {
		queue := own()
		send(ctx, queue, texts("1", "2")...)
		at := get(client.NewReceiverForQueue(queue, &sb.ReceiverOptions{ReceiveMode: sb.ReceiveModeReceiveAndDelete}))
		defer at.Close(ctx)
		same(bodies(take(ctx, at, 2)), "1", "2")
		empty(ctx, at)
	}},

	{"peek", func(ctx context.Context) {
		queue := own()
		send(ctx, queue, texts("1", "2", "3")...)
		at := get(client.NewReceiverForQueue(queue, nil))
		defer at.Close(ctx)
		same(bodies(get(at.PeekMessages(ctx, 2, nil))), "1", "2")
		same(bodies(get(at.PeekMessages(ctx, 2, nil))), "3")
		complete(ctx, at, take(ctx, at, 3))
	}},

	{"settle after the receiver was closed", func(ctx context.Context) {
		queue := own()
		send(ctx, queue, texts("1")...)
		at := get(client.NewReceiverForQueue(queue, nil))
		message := take(ctx, at, 1)[0]
		must(at.Close(ctx))
		other := get(client.NewReceiverForQueue(queue, nil))
		defer other.Close(ctx)
		must(other.CompleteMessage(ctx, message, nil))
		empty(ctx, other)
	}},

	{"schedule and cancel", func(ctx context.Context) {
		queue := own()
		sender := get(client.NewSender(queue, nil))
		defer sender.Close(ctx)
		at := get(client.NewReceiverForQueue(queue, nil))
		defer at.Close(ctx)
		soon := time.Now().Add(1500 * time.Millisecond)
		numbers := get(sender.ScheduleMessages(ctx, texts("soon", "never"), soon, nil))
		must(sender.CancelScheduledMessages(ctx, numbers[1:], nil))
		peeked := get(at.PeekMessages(ctx, 5, nil))
		check(len(peeked) == 1 && peeked[0].State == sb.MessageStateScheduled, "not scheduled")
		found := take(ctx, at, 1)
		same(bodies(found), "soon")
		check(!time.Now().Before(soon.Truncate(time.Millisecond)), "too early")
		complete(ctx, at, found)
		empty(ctx, at)
	}},

	{"duplicate detection", func(ctx context.Context) {
		queue := "no-duplicates"
		messages := texts("1", "2", "3")
		for number, id := range []string{"a", "a", "b"} {
			messages[number].MessageID = &id
		}
		send(ctx, queue, messages...)
		at := get(client.NewReceiverForQueue(queue, nil))
		defer at.Close(ctx)
		found := take(ctx, at, 2)
		same(bodies(found), "1", "3")
		complete(ctx, at, found)
		empty(ctx, at)
	}},

	{"time to live", func(ctx context.Context) {
		queue := "expires-to-dead-letters"
		send(ctx, queue, &sb.Message{Body: []byte("1"), TimeToLive: pointer(300 * time.Millisecond)})
		from := dead(queue)
		defer from.Close(ctx)
		letter := take(ctx, from, 1)[0]
		check(*letter.DeadLetterReason == "TTLExpiredException", "%s", *letter.DeadLetterReason)
		must(from.CompleteMessage(ctx, letter, nil))
	}},

	{"sessions", func(ctx context.Context) {
		messages := texts("a1", "a2")
		for _, message := range messages {
			message.SessionID = pointer("a")
		}
		send(ctx, "sessions", messages...)
		at := get(client.AcceptSessionForQueue(ctx, "sessions", "a", nil))
		defer at.Close(ctx)
		check(at.SessionID() == "a" && time.Until(at.LockedUntil()) > 10*time.Second, "session %s", at.SessionID())
		short, cancel := context.WithTimeout(ctx, 3*time.Second)
		defer cancel()
		_, err := client.AcceptSessionForQueue(short, "sessions", "a", nil)
		check(err != nil, "a session was locked twice")
		found := take(ctx, at, 2)
		same(bodies(found), "a1", "a2")
		check(*found[0].SessionID == "a", "session id of a message")
		must(at.AbandonMessage(ctx, found[0], nil))
		must(at.DeferMessage(ctx, found[1], nil))
		again := take(ctx, at, 1)
		same(bodies(again), "a1")
		complete(ctx, at, again)
		complete(ctx, at, get(at.ReceiveDeferredMessages(ctx, []int64{*found[1].SequenceNumber}, nil)))
	}},

	{"the next free session", func(ctx context.Context) {
		send(ctx, "more-sessions", &sb.Message{Body: []byte("n1"), SessionID: pointer("n")})
		at := get(client.AcceptNextSessionForQueue(ctx, "more-sessions", nil))
		check(at.SessionID() == "n", "session %s", at.SessionID())
		complete(ctx, at, take(ctx, at, 1))
		must(at.Close(ctx))
		short, cancel := context.WithTimeout(ctx, 2*time.Second)
		defer cancel()
		_, err := client.AcceptNextSessionForQueue(short, "more-sessions", nil)
		check(err != nil, "there was a session")
	}},

	{"session state and lock", func(ctx context.Context) {
		send(ctx, "sessions", &sb.Message{Body: []byte("s1"), SessionID: pointer("s")})
		at := get(client.AcceptSessionForQueue(ctx, "sessions", "s", nil))
		defer at.Close(ctx)
		check(get(at.GetSessionState(ctx, nil)) == nil, "a state")
		must(at.SetSessionState(ctx, []byte("the state"), nil))
		check(string(get(at.GetSessionState(ctx, nil))) == "the state", "another state")
		before := at.LockedUntil()
		time.Sleep(20 * time.Millisecond)
		must(at.RenewSessionLock(ctx, nil))
		check(at.LockedUntil().After(before), "not renewed")
		complete(ctx, at, take(ctx, at, 1))
		must(at.SetSessionState(ctx, nil, nil))
	}},

	{"list sessions", func(ctx context.Context) {
		queue := "listed-sessions"
		send(ctx, queue, &sb.Message{Body: []byte("1"), SessionID: pointer("messages")})
		at := get(client.AcceptSessionForQueue(ctx, queue, "state", nil))
		must(at.SetSessionState(ctx, []byte("s"), nil))
		must(at.Close(ctx))
		list := func(options *sb.ListSessionsOptions) []string {
			found := []string{}
			for pager := client.NewListSessionsForQueuePager(queue, options); pager.More(); {
				found = append(found, get(pager.NextPage(ctx)).Sessions...)
			}
			slices.Sort(found)
			return found
		}
		same(list(nil), "messages", "state")
		same(list(&sb.ListSessionsOptions{SessionStateUpdatedAfter: pointer(time.Now().Add(-time.Hour))}), "state")
		same(list(&sb.ListSessionsOptions{SessionStateUpdatedAfter: pointer(time.Now().Add(time.Hour))}))
	}},

	{"topic and subscriptions", func(ctx context.Context) {
		messages := texts("1", "2")
		for number, message := range messages {
			message.Subject = pointer("order")
			message.ApplicationProperties = map[string]any{
				"region": []string{"eu", "us"}[number], "total": []int64{5, 500}[number],
			}
		}
		send(ctx, "events", messages...)
		for name, expected := range map[string][]string{"all": {"1", "2"}, "eu": {"1"}, "large": {"2"}} {
			at := get(client.NewReceiverForSubscription("events", name, nil))
			found := take(ctx, at, len(expected))
			same(bodies(found), expected...)
			complete(ctx, at, found)
			empty(ctx, at)
			must(at.Close(ctx))
		}
	}},

	{"what is not there", func(ctx context.Context) {
		at := get(client.NewReceiverForQueue("nowhere", nil))
		defer at.Close(ctx)
		_, err := at.ReceiveMessages(ctx, 1, nil)
		refused(err, sb.CodeNotFound)
		sender := get(client.NewSender("sessions", nil))
		defer sender.Close(ctx)
		err = sender.SendMessage(ctx, &sb.Message{Body: []byte("1")}, nil)
		check(err != nil && strings.Contains(err.Error(), "SessionId was not set"), "%v", err)
	}},

	{"a wrong key", func(ctx context.Context) {
		settings := strings.Split(os.Getenv("SERVICEBUS_CONNECTION"), ";")
		for number, setting := range settings {
			if strings.HasPrefix(setting, "SharedAccessKey=") {
				settings[number] = "SharedAccessKey=wrong"
			}
		}
		stranger := get(sb.NewClientFromConnectionString(strings.Join(settings, ";"), nil))
		defer stranger.Close(ctx)
		sender := get(stranger.NewSender("queue-0", nil))
		refused(sender.SendMessage(ctx, &sb.Message{Body: []byte("1")}, nil), sb.CodeUnauthorizedAccess)
	}},
}

// tried runs a capability; its problem is nil when there is none.
func tried(run func(context.Context)) (problem any) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	defer func() {
		if caught := recover(); caught != nil {
			problem = fmt.Sprint(caught)
		}
	}()
	run(ctx)
	return nil
}

func main() {
	options := &sb.ClientOptions{RetryOptions: sb.RetryOptions{MaxRetries: -1}}
	client = get(sb.NewClientFromConnectionString(os.Getenv("SERVICEBUS_CONNECTION"), options))
	output := json.NewEncoder(os.Stdout)
	for _, capability := range capabilities {
		must(output.Encode(map[string]any{"name": capability.name, "problem": tried(capability.run)}))
	}
	must(client.Close(context.Background()))
}
