package main

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"sync"

	roletalk "github.com/xshkut/roletalk-go"
)

// plan of a stream: how many bytes, in pieces of which size, and who breaks off.
type plan struct {
	Tag    string `json:"tag"`
	Size   int    `json:"size"`
	Piece  int    `json:"piece"`
	Breaks string `json:"breaks,omitempty"`
	Reason string `json:"reason,omitempty"`
	Pauses bool   `json:"pauses,omitempty"`
}

// transfer is how a stream has ended.
type transfer struct {
	Bytes  int    `json:"bytes"`
	Sha256 string `json:"sha256"`
}

// streams of the player, by the tags of their plans.
type streams struct {
	mx     sync.Mutex
	paused map[string]chan struct{}
	// Bytes that the writers have got rid of.
	written map[string]int
}

// read to the end, or break off or pause after the first piece when the plan says so.
func (s *streams) read(stream *roletalk.Readable, plan *plan) (*transfer, error) {
	hash := sha256.New()
	buffer := make([]byte, 16384)
	bytes := 0
	for {
		n, err := stream.Read(buffer)
		bytes += n
		hash.Write(buffer[:n])
		if err == io.EOF {
			return &transfer{bytes, hex.EncodeToString(hash.Sum(nil))}, nil
		}
		if err != nil {
			return nil, err
		}
		if n > 0 && plan.Breaks == "reader" {
			reason := errors.New(plan.Reason)
			stream.Destroy(reason)
			return nil, reason
		}
		if n > 0 && n == bytes && plan.Pauses {
			s.pause(plan.Tag)
		}
	}
}

// write what the plan says, or break off behind it.
func (s *streams) write(stream *roletalk.Writable, plan *plan) (*transfer, error) {
	hash := sha256.New()
	s.advance(plan.Tag, 0)
	for at := 0; at < plan.Size; {
		length := plan.Piece
		if length > plan.Size-at {
			length = plan.Size - at
		}
		piece := pattern(at, length)
		hash.Write(piece)
		if _, err := stream.Write(piece); err != nil {
			return nil, err
		}
		at += length
		s.advance(plan.Tag, at)
	}
	if plan.Breaks == "writer" {
		reason := errors.New(plan.Reason)
		stream.Destroy(reason)
		return nil, reason
	}
	if err := stream.Close(); err != nil {
		return nil, err
	}
	return &transfer{plan.Size, hex.EncodeToString(hash.Sum(nil))}, nil
}

func (s *streams) pause(tag string) {
	resumed := make(chan struct{})
	s.mx.Lock()
	if s.paused == nil {
		s.paused = map[string]chan struct{}{}
	}
	s.paused[tag] = resumed
	s.mx.Unlock()
	observe("paused", object{"tag": tag})
	<-resumed
}

// resume lets a reader that pauses go on.
func (s *streams) resume(tag string) error {
	s.mx.Lock()
	defer s.mx.Unlock()
	resumed, ok := s.paused[tag]
	if !ok {
		return errors.New("this stream does not pause")
	}
	delete(s.paused, tag)
	close(resumed)
	return nil
}

func (s *streams) advance(tag string, bytes int) {
	s.mx.Lock()
	defer s.mx.Unlock()
	if s.written == nil {
		s.written = map[string]int{}
	}
	s.written[tag] = bytes
}

func (s *streams) progress(tag string) (int, error) {
	s.mx.Lock()
	defer s.mx.Unlock()
	bytes, ok := s.written[tag]
	if !ok {
		return 0, errors.New("no such stream")
	}
	return bytes, nil
}

// pattern has the bytes of all streams: their position modulo a prime.
func pattern(at, length int) []byte {
	piece := make([]byte, length)
	for i := range piece {
		piece[i] = byte((at + i) % 251)
	}
	return piece
}
