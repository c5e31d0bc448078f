// Command drill is a small web server for trees that are drilled: it serves the
// directory above its own on 127.0.0.1:8080, as an instance at the port 1808 and its number. With an argument it does what that
// names instead, as no honest program would.
package main

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"
)

func main() {
	self, err := os.Executable()
	if err != nil { // there is no /proc
		self = os.Args[0]
	}
	dir := filepath.Dir(filepath.Dir(self))
	if len(os.Args) < 2 {
		address := "127.0.0.1:8080"
		if n := os.Getenv("KNOWNGOOD_INSTANCE"); n != "" {
			address = "127.0.0.1:1808" + n
		}
		fmt.Println(http.ListenAndServe(address, http.FileServer(http.Dir(dir))))
		os.Exit(1)
	}
	switch os.Args[1] {
	case "check":
		fmt.Println("fine")
	case "brief": // a service that ends after it was well for a while
		time.Sleep(1400 * time.Millisecond)
		os.Exit(4)
	case "wait":
		time.Sleep(600 * time.Millisecond)
	case "forge": // makes the data right that was restored wrong
		for name, content := range map[string]string{"index.html": "hello", "canary": "secret"} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
				fmt.Println(err)
			}
		}
		fmt.Println("fine")
	case "reach":
		if c, err := net.Dial("tcp", os.Args[2]); err == nil {
			c.Close()
			fmt.Println("reached")
		}
	case "flood":
		for {
			fmt.Println("endless")
		}
	}
}
