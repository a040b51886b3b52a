// What must not compile: each of these lines is an error, which shows that the types say something.

import { Peer } from 'roletalk';

const peer = new Peer();

// @ts-expect-error a name is a string
new Peer({ name: 5 });
// @ts-expect-error there is no such option
new Peer({ port: 9000 });
// @ts-expect-error keys are strings
peer.addPresharedKey('id', Buffer.alloc(1));
// @ts-expect-error the port is a number
peer.listen('9000');
// @ts-expect-error an address is a string
peer.connect(new URL('ws://localhost'));
// @ts-expect-error there is no such member
peer.address;
// @ts-expect-error the id cannot be set
peer.id = 'x';
// @ts-expect-error the options of a request need an event
peer.destination('a').request({ timeout: 5 }, null);
// @ts-expect-error a timeout is a number
peer.destination('a').request({ event: 'e', timeout: '5' }, null);
// @ts-expect-error a handler is a function
peer.role('a').onRequest('e', 'handler');
// @ts-expect-error messages have no callback
peer.role('a').onMessage('e', (ctx, cb) => cb(null));
// @ts-expect-error a Context of a request has no stream
peer.role('a').onRequest('e', (ctx) => ctx.readable);
