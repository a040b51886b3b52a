'use strict';

// The numbers of src/commands.rs and src/events.rs.

/** Commands. */
const Command = { SEND: 1, REQUEST: 2, RESPOND: 3, REJECT: 4, ABANDON: 5, WRITTEN: 6, RELEASE_UNIT: 7 };
/** Words in front of the commands, and of one command. */
const COMMAND_HEADER = 2;
const COMMAND_WORDS = 8;

/** Events. */
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
};
/** Words in front of the events, of one event, of one piece of output. */
const EVENT_HEADER = 8;
const EVENT_WORDS = 8;
const OUTPUT_WORDS = 4;
const OUTPUTS = 64;
/** Words of the header. */
const Header = { EVENTS: 0, MORE: 1, ASCII: 2, BYTES: 3, DEADLINE: 4, OUTPUTS: 5 };
/** Flags in the first word of an event. */
const Flag = {
  ASCII: 1 << 16,
  IN_BUFFER: 1 << 17,
  NOT_UTF8: 1 << 18,
  AGAIN: 1 << 19,
  NAMED: 1 << 20,
  FAILED: 1 << 21,
};
/** Flag of a piece of output: the socket ends behind it. */
const ENDING = 1;
/** How an answer went wrong: the request was not even sent, or was rejected with the payload. */
const NOT_SENT = 1;
const REJECTED = 2;
/** Stands for no number. */
const NONE = 0xffffffff;
/** Payloads above this do not travel in shared memory. */
const LARGE = 16384;

/** What the stream functions of the addon return. */
const StreamState = { PENDING: 0, ENDED: 1, FAILED: 2 };

module.exports = {
  Command,
  COMMAND_HEADER,
  COMMAND_WORDS,
  Op,
  EVENT_HEADER,
  EVENT_WORDS,
  OUTPUT_WORDS,
  OUTPUTS,
  Header,
  Flag,
  ENDING,
  NOT_SENT,
  REJECTED,
  NONE,
  LARGE,
  StreamState,
};
