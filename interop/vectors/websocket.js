'use strict';

const { OPCODE, RawConnection } = require('../../tests/hostile/raw');

/** A scripted connection. Anything but binary messages, pings, pongs and closes is an error. */
class WebSocket extends RawConnection {
  answersPings = true;

  /** Messages as buffers, and `{ code, reason }` when the other side closes. */
  inbox = [];

  /** The first message or close, not taken before, that is wanted. */
  async take(wanted = () => true) {
    for (;;) {
      const index = this.inbox.findIndex(wanted);
      if (index >= 0) return this.inbox.splice(index, 1)[0];
      if (!(await this.more())) throw new Error('the connection has ended');
    }
  }

  arrived({ opcode, payload }) {
    if (opcode === OPCODE.binary) {
      this.inbox.push(payload);
    } else if (opcode === OPCODE.close) {
      const code = payload.length > 0 ? payload.readUInt16BE() : 1005;
      this.inbox.push({ code, reason: payload.toString('utf8', 2) });
    } else if (opcode === OPCODE.ping) {
      if (this.answersPings) this.frame(OPCODE.pong, payload);
    } else if (opcode !== OPCODE.pong) {
      this.error = new Error(`a frame of opcode ${opcode}`);
    }
  }
}

module.exports = { WebSocket };
