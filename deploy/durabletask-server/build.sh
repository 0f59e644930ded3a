#!/bin/sh
# `sh build.sh PROGRAM` builds the server with Go, after the corrections of postgres.patch to durabletask-go. Needs git.
set -eu
cd "$(dirname "$0")"
program=$(realpath -m "$1")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp go.mod go.sum main.go "$work"
cd "$work"
go mod vendor
git apply "$OLDPWD/postgres.patch"
CGO_ENABLED=0 go build -mod=vendor -trimpath -o "$program" .
