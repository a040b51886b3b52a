package main

import (
	"crypto/tls"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"sort"
	"sync"
	"time"

	roletalk "github.com/xshkut/roletalk-go"
)

// command is everything that the runner may say.
type command struct {
	ID       int
	Command  string
	Name     string
	Friendly bool
	Keys     [][2]string
	Role     string
	Event    string
	URL      string
	CA       string
	Data     wire
	Timeout  int
	Direct   bool
	Count    int
	Size     int
	Plan     plan
	To       string
	Tag      string
	TLS      *certificate
}

// certificate and its key, in PEM.
type certificate struct {
	Cert string
	Key  string
}

type player struct {
	peer    *roletalk.Peer
	held    held
	streams streams
}

func (p *player) run(c *command) (interface{}, error) {
	switch c.Command {
	case "start":
		p.peer = roletalk.NewPeer(roletalk.PeerOptions{Name: c.Name, Friendly: c.Friendly})
		for _, key := range c.Keys {
			p.peer.AddKey(key[0], key[1])
		}
	case "role":
		p.serve(p.peer.Role(c.Role), c.Role)
	case "enable":
		p.peer.Role(c.Role).Enable()
	case "disable":
		p.peer.Role(c.Role).Disable()
	case "listen":
		return p.listen(c.TLS)
	case "connect":
		// The module takes no certificate to trust.
		unit, err := p.peer.Connect(c.URL, roletalk.ConnectOptions{InsecureTLS: c.CA != ""})
		if err != nil {
			return nil, err
		}
		return unit.Name(), nil
	case "destination":
		p.peer.Destination(c.Role)
	case "units":
		return p.units(c.Role), nil
	case "request":
		options, err := p.options(c)
		if err != nil {
			return nil, err
		}
		answer, err := p.peer.Destination(c.Role).Request(c.Event, options)
		if err != nil {
			return nil, err
		}
		return toWire(answer), nil
	case "hold":
		return p.hold(c)
	case "release":
		p.held.release()
	case "large":
		options := roletalk.EmitOptions{Data: make([]byte, c.Size)}
		answer, err := p.peer.Destination(c.Role).Request("length", options)
		if err != nil {
			return nil, err
		}
		return answer.Data, nil
	case "send":
		options, err := p.options(c)
		if err != nil {
			return nil, err
		}
		return nil, p.peer.Destination(c.Role).Send(c.Event, options)
	case "upload":
		options := c.Plan.options()
		options.Unit = p.named(c.To)
		_, stream, err := p.peer.Destination(c.Role).NewWriter(c.Event, options)
		if err != nil {
			return nil, err
		}
		return p.streams.write(stream, &c.Plan)
	case "download":
		_, stream, err := p.peer.Destination(c.Role).NewReader(c.Event, c.Plan.options())
		if err != nil {
			return nil, err
		}
		return p.streams.read(stream, &c.Plan)
	case "resume":
		return nil, p.streams.resume(c.Tag)
	case "progress":
		return p.streams.progress(c.Tag)
	case "disconnect":
		for _, unit := range p.peer.Units() {
			unit.Close()
		}
	default:
		return nil, errors.New("unknown command " + c.Command)
	}
	return nil, nil
}

func (p *player) listen(pem *certificate) (int, error) {
	if pem == nil {
		address, err := p.peer.Listen("127.0.0.1:0")
		if err != nil {
			return 0, err
		}
		return address.(*net.TCPAddr).Port, nil
	}
	// The peer is an http.Handler, and TLS is the matter of its server.
	pair, err := tls.X509KeyPair([]byte(pem.Cert), []byte(pem.Key))
	if err != nil {
		return 0, err
	}
	config := &tls.Config{Certificates: []tls.Certificate{pair}}
	listener, err := tls.Listen("tcp4", "127.0.0.1:0", config)
	if err != nil {
		return 0, err
	}
	go http.Serve(listener, p.peer)
	return listener.Addr().(*net.TCPAddr).Port, nil
}

func (p *player) options(c *command) (roletalk.EmitOptions, error) {
	data, err := c.Data.value()
	options := roletalk.EmitOptions{Data: data, Timeout: time.Duration(c.Timeout) * time.Millisecond}
	if err != nil {
		return options, err
	}
	if c.Direct {
		units := p.peer.Units()
		if len(units) == 0 {
			return options, errors.New("no unit")
		}
		options.Unit = units[0]
	}
	return options, nil
}

// named is the unit of this name; nil, for any, if there is none.
func (p *player) named(name string) *roletalk.Unit {
	for _, unit := range p.peer.Units() {
		if unit.Name() == name {
			return unit
		}
	}
	return nil
}

func (p *player) units(role string) []string {
	units := p.peer.Units()
	if role != "" {
		units = p.peer.Destination(role).Units()
	}
	names := []string{}
	for _, unit := range units {
		names = append(names, unit.Name())
	}
	sort.Strings(names)
	return names
}

func (p *player) hold(c *command) (int, error) {
	destination := p.peer.Destination(c.Role)
	var group sync.WaitGroup
	var mx sync.Mutex
	var failure error
	right := 0
	for i := 0; i < c.Count; i++ {
		group.Add(1)
		go func(number int) {
			defer group.Done()
			answer, err := destination.Request("hold", roletalk.EmitOptions{Data: number})
			mx.Lock()
			defer mx.Unlock()
			if err != nil {
				failure = err
			} else if answer.Data == float64(number) {
				right++
			}
		}(i)
	}
	group.Wait()
	return right, failure
}

// options of the request for a stream: the plan, as text.
func (p *plan) options() roletalk.EmitOptions {
	text, _ := json.Marshal(p)
	return roletalk.EmitOptions{Data: string(text)}
}
