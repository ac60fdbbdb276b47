// Command referrers-registry is a registry in memory with the referrers API, for tests: go-containerregistry's own.
package main

import (
	"log"
	"net"
	"net/http"
	"os"

	"github.com/google/go-containerregistry/pkg/registry"
)

func main() {
	listener, err := net.Listen("tcp", os.Args[1]) // 127.0.0.1:PORT
	if err != nil {
		log.Fatal(err)
	}
	log.Fatal(http.Serve(listener, registry.New(registry.WithReferrersSupport(true))))
}
