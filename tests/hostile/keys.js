'use strict';

// The preshared key of the attacked peers, and the proof of it.

const { createHmac, randomBytes } = require('node:crypto');

const { FRAME } = require('./raw');

const KEY = { id: 'k', secret: 'secret' };

/** Challenges the peer, and answers its challenge. */
async function authenticate(raw) {
  raw.json(FRAME.challenge, { ids: [KEY.id], challenge: randomBytes(32).toString('hex') });
  const { challenge } = JSON.parse((await raw.message(FRAME.challenge)).subarray(1));
  const proof = createHmac('sha256', KEY.secret).update(challenge).digest('hex');
  raw.json(FRAME.response, { id: KEY.id, proof });
}

module.exports = { KEY, authenticate };
