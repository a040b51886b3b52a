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

// serve does what every role of a player does.
func (p *player) serve(role *roletalk.Role, name string) {
	seen := func(event string, ctx *roletalk.MessageContext) {
		observe(event, object{"role": name, "from": ctx.Unit().Name(), "data": toWire(ctx)})
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
	role.OnRequest("name", func(ctx *roletalk.RequestContext) { ctx.Reply(p.peer.Name) })
	role.OnRequest("count", func(ctx *roletalk.RequestContext) {
		text, _ := ctx.Data.(string)
		var number int
		if _, err := fmt.Sscan(text, &number); err != nil {
			ctx.Reject(err.Error())
			return
		}
		observe("counted", object{"number": number})
		ctx.Reply(fmt.Sprintf("%d %s", number, p.peer.Name))
	})
	role.OnRequest("length", func(ctx *roletalk.RequestContext) {
		ctx.Reply(len(ctx.OriginData().Data))
	})
	role.OnRequest("fail", func(ctx *roletalk.RequestContext) {
		if reason, ok := ctx.Data.(string); ok {
			ctx.Reject(reason)
		} else {
			ctx.Reject("no such luck")
		}
	})
	role.OnRequest("never", func(ctx *roletalk.RequestContext) {
		observe("ignored", object{})
		select {}
	})
	role.OnRequest("hold", func(ctx *roletalk.RequestContext) {
		<-p.held.hold()
		ctx.Reply(ctx.Data)
	})
	role.OnReader("up", func(ctx *roletalk.ReaderRequestContext) {
		stream("received", ctx.RequestContext, ctx.Reply, p.streams.read)
	})
	role.OnWriter("down", func(ctx *roletalk.WriterRequestContext) {
		stream("sent", ctx.RequestContext, ctx.Reply, p.streams.write)
	})
	role.OnReader("refuse", func(ctx *roletalk.ReaderRequestContext) { refuse(ctx.RequestContext) })
	role.OnWriter("refuse", func(ctx *roletalk.WriterRequestContext) { refuse(ctx.RequestContext) })
}

// stream accepts what was asked for, runs it, and reports how it has ended.
func stream[S any](
	event string,
	ctx *roletalk.RequestContext,
	accept func(interface{}) (S, error),
	run func(S, *plan) (*transfer, error),
) {
	var plan plan
	if err := plan.parse(ctx.Data); err != nil {
		ctx.Reject(err)
		return
	}
	stream, err := accept("go on")
	var result *transfer
	if err == nil {
		result, err = run(stream, &plan)
	}
	if err != nil {
		observe(event, object{"tag": plan.Tag, "error": err.Error()})
	} else {
		observe(event, object{"tag": plan.Tag, "result": result})
	}
}

func refuse(ctx *roletalk.RequestContext) {
	var plan plan
	if err := plan.parse(ctx.Data); err != nil {
		ctx.Reject(err)
		return
	}
	ctx.Reject(plan.Reason)
}

func (p *plan) parse(data interface{}) error {
	text, ok := data.(string)
	if !ok {
		return fmt.Errorf("the plan is not a text: %v", data)
	}
	return json.Unmarshal([]byte(text), p)
}
