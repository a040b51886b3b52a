package main

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strconv"

	roletalk "github.com/xshkut/roletalk-go"
)

// wire is a payload as the runner writes it: binary in hexadecimal, numbers as text.
type wire struct {
	Type  string          `json:"type"`
	Value json.RawMessage `json:"value"`
}

func toWire(ctx *roletalk.MessageContext) object {
	origin := ctx.OriginData()
	switch origin.T {
	case roletalk.DatatypeBinary:
		return object{"type": "binary", "value": hex.EncodeToString(origin.Data)}
	case roletalk.DatatypeNull:
		return object{"type": "null", "value": nil}
	case roletalk.DatatypeBool:
		return object{"type": "boolean", "value": ctx.Data}
	case roletalk.DatatypeString:
		return object{"type": "string", "value": ctx.Data}
	case roletalk.DatatypeNumber:
		return object{"type": "number", "value": fmt.Sprint(ctx.Data)}
	default:
		return object{"type": "object", "value": json.RawMessage(origin.Data)}
	}
}

// value of the payload as the module takes it.
func (w *wire) value() (interface{}, error) {
	var text string
	switch w.Type {
	case "null", "":
		return nil, nil
	case "boolean":
		var value bool
		err := json.Unmarshal(w.Value, &value)
		return value, err
	case "object":
		return w.Value, nil
	}
	if err := json.Unmarshal(w.Value, &text); err != nil {
		return nil, err
	}
	switch w.Type {
	case "binary":
		return hex.DecodeString(text)
	case "string":
		return text, nil
	case "number":
		return strconv.ParseFloat(text, 64)
	default:
		return nil, fmt.Errorf("unknown type %s", w.Type)
	}
}
