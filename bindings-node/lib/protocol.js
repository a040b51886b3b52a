'use strict';

// Made by `npm run protocol` from the numbers of the addon. What each means is said in src/commands.rs,
// src/events.rs, src/fields.rs and src/native.rs.

const Command = {
  SEND: 1,
  REQUEST: 2,
  RESPOND: 3,
  REJECT: 4,
  ABANDON: 5,
  WRITTEN: 6,
  RELEASE_UNIT: 7,
  REQUEST_WITHIN: 9,
  FORGET: 10,
};

const Op = {
  MESSAGE: 1,
  REQUEST: 2,
  OFFER_READABLE: 3,
  OFFER_WRITABLE: 4,
  ANSWER: 5,
  STREAM: 6,
  SENT: 7,
  ABANDONED: 8,
  CLOSED: 9,
  ATTACHED: 10,
  UNIT_CLOSED: 11,
  UNIT_ROLES: 12,
  AUTH_REFUSED: 13,
  DIALED: 14,
  DIAL: 15,
  SLOW_CONSUMER: 16,
  PING: 17,
  PONG: 18,
  CONNECTION_CLOSED: 19,
  UNSENT: 20,
  CANCELLED: 21,
  EJECTED: 22,
  DENIED: 23,
  ADDRESS_IGNORED: 24,
  EVICT: 25,
  ACCEPT_FAILED: 26,
};

const Header = {
  EVENTS: 0,
  MORE: 1,
  ASCII: 2,
  BYTES: 3,
  DEADLINE: 4,
  OUTPUTS: 5,
};

const Flag = {
  ASCII: 0x10000,
  IN_BUFFER: 0x20000,
  NOT_UTF8: 0x40000,
  AGAIN: 0x80000,
  NAMED: 0x100000,
  FAILED: 0x200000,
  FIELDS: 0x400000,
  NOT_BEGUN: 0x800000,
};

const StreamState = {
  PENDING: 0,
  ENDED: 1,
  FAILED: 2,
};

const Step = {
  CHOOSE: 0,
  WAIT: 1,
  WAIT_UNTIL: 2,
  PARK: 3,
  END: 4,
};

const Field = {
  TEXT: 1,
  BYTES: 2,
  TRACEPARENT: 3,
  TRACESTATE: 4,
  BAGGAGE: 5,
  CODE: 6,
  DATA: 7,
  RETRY: 8,
  UNHANDLED: 9,
  REQUIRED: 10,
};

const Kind = {
  BINARY: 0,
  NULL: 1,
  BOOLEAN: 2,
  STRING: 3,
  NUMBER: 4,
  OBJECT: 5,
};

const COMMAND_HEADER = 2;
const COMMAND_WORDS = 8;
const EVENT_HEADER = 8;
const EVENT_WORDS = 8;
const OUTPUT_WORDS = 4;
const OUTPUTS = 64;
const LARGE = 16384;
const NONE = 0xffffffff;
const ENDING = 1;
const TAKEN = 2;
const WRITTEN = 4;
const GONE = 8;
const PAUSE = 16;
const RESUME = 32;
const NOT_SENT = 1;
const REJECTED = 2;
const FIELD_HEADER = 9;
const FIELDS_TRAILER = 12;

module.exports = {
  Command,
  Op,
  Header,
  Flag,
  StreamState,
  Step,
  Field,
  Kind,
  COMMAND_HEADER,
  COMMAND_WORDS,
  EVENT_HEADER,
  EVENT_WORDS,
  OUTPUT_WORDS,
  OUTPUTS,
  LARGE,
  NONE,
  ENDING,
  TAKEN,
  WRITTEN,
  GONE,
  PAUSE,
  RESUME,
  NOT_SENT,
  REJECTED,
  FIELD_HEADER,
  FIELDS_TRAILER,
};
