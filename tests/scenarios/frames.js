'use strict';

/** Follows where the WebSocket frames of one direction begin. The upgrade comes before them. */
class FrameWalker {
  constructor() {
    this.upgraded = false;
    /** The last bytes of the upgrade, or the beginning of a header. */
    this.head = Buffer.alloc(0);
    /** Bytes that are left of a payload. */
    this.left = 0;
  }

  /** Goes past this piece of the stream. */
  skip(data) {
    this.walk(data, () => false);
  }

  /** Where in this piece a frame that begins in it can be cut, -1 if there is none; goes nowhere. */
  middle(data, part) {
    const walker = Object.assign(new FrameWalker(), this);
    let found = -1;
    walker.walk(data, (begin, payload, size) => {
      if (part === 'header') found = begin + 1;
      // A payload that is not all here can be cut at its end here.
      else if (size > 1) found = Math.min(payload + Math.floor(size / 2), data.length);
      return found > 0;
    });
    return found;
  }

  /** Calls `visit` with where each header and its payload begin, and the payload's size, until that is true. */
  walk(data, visit) {
    let at = 0;
    if (!this.upgraded) {
      const all = Buffer.concat([this.head, data]);
      const end = all.indexOf('\r\n\r\n');
      this.upgraded = end >= 0;
      if (!this.upgraded) this.head = all;
      else {
        at = end + 4 - this.head.length;
        this.head = Buffer.alloc(0);
      }
      if (!this.upgraded) return;
    }
    while (at < data.length) {
      const skipped = Math.min(this.left, data.length - at);
      this.left -= skipped;
      at += skipped;
      if (at === data.length) return;
      const before = this.head.length;
      const all = Buffer.concat([this.head, data.subarray(at)]);
      const header = headerOf(all);
      if (!header) {
        this.head = all;
        return;
      }
      const begin = at - before;
      at = begin + header.length;
      this.head = Buffer.alloc(0);
      this.left = header.payload;
      if (begin >= 0 && visit(begin, at, header.payload)) return;
    }
  }
}

/** The lengths of a header and of its payload; nothing while it is not complete. */
function headerOf(data) {
  if (data.length < 2) return undefined;
  const short = data[1] & 0x7f;
  const extra = short === 127 ? 8 : short === 126 ? 2 : 0;
  const length = 2 + extra + (data[1] & 0x80 ? 4 : 0);
  if (data.length < length) return undefined;
  const payload = extra === 8 ? Number(data.readBigUInt64BE(2)) : extra === 2 ? data.readUInt16BE(2) : short;
  return { length, payload };
}

module.exports = { FrameWalker };
