// Server of durabletask-go with SQLite or PostgreSQL, as its own main program serves SQLite.
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"net"
	"time"

	"github.com/microsoft/durabletask-go/backend"
	"github.com/microsoft/durabletask-go/backend/postgres"
	"github.com/microsoft/durabletask-go/backend/sqlite"
	"google.golang.org/grpc"
)

func main() {
	listen := flag.String("listen", "127.0.0.1:4001", "address to listen on")
	file := flag.String("sqlite", "", "file of the SQLite database; empty: in memory")
	host := flag.String("postgres", "", "host of a PostgreSQL server, instead of SQLite")
	port := flag.Uint("postgres-port", 5432, "its port")
	database := flag.String("postgres-database", "postgres", "its database")
	user := flag.String("postgres-user", "postgres", "its user")
	password := flag.String("postgres-password", "", "password of the user")
	lock := flag.Duration("lock", 2*time.Minute, "time after which the work of a crashed server is given to another worker")
	connections := flag.Uint("postgres-connections", 8, "connections to it")
	flag.Parse()

	logger := backend.DefaultLogger()
	var store backend.Backend
	if *host == "" {
		options := sqlite.NewSqliteOptions(*file)
		options.OrchestrationLockTimeout, options.ActivityLockTimeout = *lock, *lock
		store = sqlite.NewSqliteBackend(options, logger)
	} else {
		options := postgres.NewPostgresOptions(*host, uint16(*port), *database, *user, *password)
		options.OrchestrationLockTimeout, options.ActivityLockTimeout = *lock, *lock
		options.PgOptions.MaxConns = int32(*connections)
		store = postgres.NewPostgresBackend(options, logger)
	}
	executor, register := backend.NewGrpcExecutor(store, logger)
	server := grpc.NewServer()
	register(server)
	worker := backend.NewTaskHubWorker(
		store,
		backend.NewOrchestrationWorker(store, executor, logger),
		backend.NewActivityTaskWorker(store, executor, logger),
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
