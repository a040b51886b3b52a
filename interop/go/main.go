// The player for roletalk-go: commands on stdin, observations on stdout. See ../README.md for the
// protocol.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"sync"
)

var (
	out   = json.NewEncoder(os.Stdout)
	outMx sync.Mutex
)

// object is a line of the protocol.
type object map[string]interface{}

func main() {
	lines := bufio.NewReader(os.Stdin)
	player := &player{}
	for {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			return
		}
		var c command
		if err := json.Unmarshal(line, &c); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		if c.Command == "start" {
			answer(player, &c)
		} else {
			go answer(player, &c)
		}
	}
}

func answer(player *player, c *command) {
	result, err := player.run(c)
	if err != nil {
		say(object{"id": c.ID, "error": err.Error()})
	} else {
		say(object{"id": c.ID, "result": result})
	}
}

// observe tells the runner that something happened.
func observe(event string, fields object) {
	fields["event"] = event
	say(fields)
}

func say(line object) {
	outMx.Lock()
	defer outMx.Unlock()
	if err := out.Encode(line); err != nil {
		os.Exit(1)
	}
}
