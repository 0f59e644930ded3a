// Server of durabletask-go with SQLite or PostgreSQL, as its own main program serves SQLite.
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"net"
	"os"
	"time"

	"github.com/microsoft/durabletask-go/backend"
	"github.com/microsoft/durabletask-go/backend/postgres"
	"github.com/microsoft/durabletask-go/backend/sqlite"
	"google.golang.org/grpc"
)

// quiet has a name for the log without the password of the database.
type quiet struct{ backend.Backend }

func (quiet) String() string { return "PostgreSQL" }

func main() {
	listen := flag.String("listen", "127.0.0.1:4001", "address to listen on")
	file := flag.String("sqlite", "", "file of the SQLite database; empty: in memory")
	host := flag.String("postgres", "", "host of a PostgreSQL server, instead of SQLite")
	port := flag.Uint("postgres-port", 5432, "its port")
	database := flag.String("postgres-database", "postgres", "its database")
	user := flag.String("postgres-user", "postgres", "its user; POSTGRES_PASSWORD is the password")
	lock := flag.Duration("lock", 2*time.Minute, "time after which the work of a crashed server is given to another worker")
	connections := flag.Uint("postgres-connections", 8, "connections to it")
	parallel := flag.Int("parallel", 64, "turns, and activities, that run at once; one that does not end occupies its place")
	flag.Parse()

	logger := backend.DefaultLogger()
	var store backend.Backend
	if *host == "" {
		options := sqlite.NewSqliteOptions(*file)
		options.OrchestrationLockTimeout, options.ActivityLockTimeout = *lock, *lock
		store = sqlite.NewSqliteBackend(options, logger)
	} else {
		options := postgres.NewPostgresOptions(*host, uint16(*port), *database, *user, "")
		options.PgOptions.ConnConfig.Password = os.Getenv("POSTGRES_PASSWORD")
		options.OrchestrationLockTimeout, options.ActivityLockTimeout = *lock, *lock
		options.PgOptions.MaxConns = int32(*connections)
		store = quiet{postgres.NewPostgresBackend(options, logger)}
	}
	executor, register := backend.NewGrpcExecutor(store, logger)
	server := grpc.NewServer()
	register(server)
	worker := backend.NewTaskHubWorker(
		store,
		backend.NewOrchestrationWorker(store, executor, logger, backend.WithMaxParallelism(int32(*parallel))),
		backend.NewActivityTaskWorker(store, executor, logger, backend.WithMaxParallelism(int32(*parallel))),
		logger,
	)
	if err := worker.Start(context.Background()); err != nil {
		log.Fatalf("cannot start: %v", err)
	}
	listener, err := net.Listen("tcp", *listen)
	if err != nil {
		log.Fatalf("cannot listen: %v", err)
	}
	fmt.Printf("ready %v\n", listener.Addr())
	log.Fatal(server.Serve(listener))
}
