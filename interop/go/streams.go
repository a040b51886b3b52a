package main

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"

	roletalk "github.com/xshkut/roletalk-go"
)

// plan of a stream: how many bytes, in pieces of which size, and who breaks off.
type plan struct {
	Size   int    `json:"size"`
	Piece  int    `json:"piece"`
	Breaks string `json:"breaks,omitempty"`
}

// transfer is how a stream has ended.
type transfer struct {
	Bytes  int    `json:"bytes"`
	Sha256 string `json:"sha256"`
}

// read to the end, or break off after the first piece when the plan says so.
func read(stream *roletalk.Readable, plan *plan) (*transfer, error) {
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
			reason := errors.New("the reader gave up")
			stream.Destroy(reason)
			return nil, reason
		}
	}
}

// write what the plan says, or break off behind it.
func write(stream *roletalk.Writable, plan *plan) (*transfer, error) {
	hash := sha256.New()
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
	}
	if plan.Breaks == "writer" {
		reason := errors.New("the writer gave up")
		stream.Destroy(reason)
		return nil, reason
	}
	if err := stream.Close(); err != nil {
		return nil, err
	}
	return &transfer{plan.Size, hex.EncodeToString(hash.Sum(nil))}, nil
}

// pattern has the bytes of all streams: their position modulo a prime.
func pattern(at, length int) []byte {
	piece := make([]byte, length)
	for i := range piece {
		piece[i] = byte((at + i) % 251)
	}
	return piece
}
