package main

import (
	"encoding/json"
	"fmt"
	"sync"

	roletalk "github.com/xshkut/roletalk-go"
)

// held are requests that are answered when the runner says so.
type held struct {
	mx       sync.Mutex
	released []chan struct{}
}

func (h *held) hold() <-chan struct{} {
	h.mx.Lock()
	defer h.mx.Unlock()
	released := make(chan struct{})
	h.released = append(h.released, released)
	observe("held", object{"count": len(h.released)})
	return released
}

func (h *held) release() {
	h.mx.Lock()
	defer h.mx.Unlock()
	for _, released := range h.released {
		close(released)
	}
	h.released = nil
}

// serve does what every role of a player does. The name is that of the peer.
func serve(role *roletalk.Role, roleName, peerName string, held *held) {
	seen := func(event string, ctx *roletalk.MessageContext) {
		observe(event, object{"role": roleName, "from": ctx.Unit().Name(), "data": toWire(ctx)})
	}
	role.OnMessage("note", func(ctx *roletalk.MessageContext) { seen("message", ctx) })
	role.OnRequest("echo", func(ctx *roletalk.RequestContext) {
		seen("request", ctx.MessageContext)
		if ctx.OriginData().T == roletalk.DatatypeJSON {
			ctx.Reply(json.RawMessage(ctx.OriginData().Data))
		} else {
			ctx.Reply(ctx.Data)
		}
	})
	role.OnRequest("name", func(ctx *roletalk.RequestContext) { ctx.Reply(peerName) })
	role.OnRequest("length", func(ctx *roletalk.RequestContext) {
		ctx.Reply(len(ctx.OriginData().Data))
	})
	role.OnRequest("fail", func(ctx *roletalk.RequestContext) { ctx.Reject("no such luck") })
	role.OnRequest("never", func(ctx *roletalk.RequestContext) {
		observe("ignored", object{})
		select {}
	})
	role.OnRequest("hold", func(ctx *roletalk.RequestContext) {
		<-held.hold()
		ctx.Reply(ctx.Data)
	})
	role.OnReader("up", func(ctx *roletalk.ReaderRequestContext) {
		var plan plan
		if err := plan.parse(ctx.Data); err != nil {
			ctx.Reject(err)
			return
		}
		stream, err := ctx.Reply("go on")
		if err != nil {
			settle("received", nil, err)
			return
		}
		result, err := read(stream, &plan)
		settle("received", result, err)
	})
	role.OnWriter("down", func(ctx *roletalk.WriterRequestContext) {
		var plan plan
		if err := plan.parse(ctx.Data); err != nil {
			ctx.Reject(err)
			return
		}
		stream, err := ctx.Reply("go on")
		if err != nil {
			settle("sent", nil, err)
			return
		}
		result, err := write(stream, &plan)
		settle("sent", result, err)
	})
	role.OnReader("refuse", func(ctx *roletalk.ReaderRequestContext) { ctx.Reject("not today") })
	role.OnWriter("refuse", func(ctx *roletalk.WriterRequestContext) { ctx.Reject("not today") })
}

func (p *plan) parse(data interface{}) error {
	text, ok := data.(string)
	if !ok {
		return fmt.Errorf("the plan is not a text: %v", data)
	}
	return json.Unmarshal([]byte(text), p)
}

// settle reports how a stream of a handler has ended.
func settle(event string, result *transfer, err error) {
	if err != nil {
		observe(event, object{"error": err.Error()})
	} else {
		observe(event, object{"result": result})
	}
}
