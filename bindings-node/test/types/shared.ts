// Every export and member that the original has, with its types.

import { EventEmitter } from 'events';
import * as http from 'http';
import * as https from 'https';
import { Socket } from 'net';
import { Readable, Writable } from 'stream';
import {
  ConnectOptions,
  Context,
  ContextForReadable,
  ContextForWritable,
  Destination,
  EmitOptions,
  ListenOptions,
  MessageHandler,
  Peer,
  PeerMetaData,
  PeerOptions,
  ReadableHandler,
  RequestCallback,
  RequestHandler,
  Role,
  Singleton,
  Unit,
  WritableHandler,
  sendableData,
} from 'roletalk';

const peerOptions: PeerOptions = { name: 'n', friendly: false };
const connectOptions: ConnectOptions = { permanent: false };
const listenOptions: ListenOptions = {
  port: 0,
  host: 'localhost',
  path: '/',
  server: http.createServer(),
  ssl: { cert: 'c', key: Buffer.alloc(1) },
};
const values: sendableData[] = ['s', 1, true, null, undefined, {}, [1, 'a', null], Buffer.alloc(1), new Date()];

const onMessage: MessageHandler = (ctx: Context) => void ctx.data;
const onRequest: RequestHandler = (ctx: Context, cb: RequestCallback) => cb(null, ctx.data);
const onReadable: ReadableHandler = (ctx: ContextForReadable, cb) => {
  const readable: Readable = ctx.readable;
  readable.resume();
  cb(new Error('no'), null);
};
const onWritable: WritableHandler = (ctx: ContextForWritable, cb) => {
  const writable: Writable = ctx.writable;
  writable.end();
  cb(null, undefined);
};

class Service extends Peer {
  constructor() {
    super({ name: 'service' });
  }
}

async function peers(): Promise<void> {
  const peer: Peer = new Peer(peerOptions);
  const shared: Peer = Singleton(peerOptions) || Singleton() || new Service();
  const emitter: EventEmitter = peer;
  const id: string = peer.id;
  const listening: Peer = await peer.listen(listenOptions);
  peer.name = 'other';
  peer.friendly = !shared.friendly;
  peer.addPresharedKey('a', 'b').addPresharedKey('c', 'd');
  peer.setTag('a', 'b');
  const tags: { [key: string]: string } = peer.getTags();
  peer.listen(0, (error: Error | null) => console.log(error));
  peer.prepareWSServer();
  http.createServer().on('upgrade', (request: http.IncomingMessage, socket, head: Buffer) => {
    peer.handleUpgrade(request, socket as Socket, head);
  });
  const server: http.Server | https.Server | undefined = peer.close();
  peer.close((error?: Error) => console.log(error));
  const { unit, ws } = await peer.connect('wss://localhost', {
    ...connectOptions,
    ca: 'pem',
    headers: { authorization: 'x' },
    handshakeTimeout: 1_000,
    rejectUnauthorized: true,
  });
  ws.once('close', (code, reason) => console.log(code, reason));
  ws.ping();
  ws.close(4_500, 'enough');
  ws.terminate();
  const state: number = ws.readyState;
  peer.connect('ws://localhost', undefined, (error, result) => console.log(error, result?.unit.id));
  const units: Unit[] = peer.units;
  const roles: Role[] = peer.roles;
  const destinations: Destination[] = peer.destinations;
  for (const on of ['onMessage', 'onRequest'] as const) peer[on](onMessage);
  peer.onRequest(onRequest);
  peer.onReadable(onReadable);
  peer.onWritable(onWritable);
  peer.onData(onRequest);
  peer
    .on('unit', (joined: Unit) => console.log(joined.id))
    .on('role', (role: Role) => console.log(role.name))
    .on('close', () => {});
  console.log(emitter, id, listening, tags, server, unit, state, units, roles, destinations);
}

function unit(it: Unit): void {
  const meta: PeerMetaData = it.meta;
  const texts: (string | undefined)[] = [it.id, it.name, meta.os, meta.runtime, meta.protocol, ...it.getRoles()];
  const numbers: number[] = [meta.time, meta.uptime];
  const tags: { [key: string]: string } = it.getTags();
  it.on('close', () => it.close()).on('error', () => {});
  console.log(texts, numbers, tags);
}

function role(it: Role): void {
  const owner: Peer = it.peer;
  const states: [string, boolean] = [it.name, it.active];
  it.onMessage('e', onMessage);
  it.onMessage(onMessage);
  it.onRequest('e', onRequest);
  it.onRequest(async (ctx) => {
    await ctx.next!();
    ctx.response = ctx.error ?? ctx.response;
  });
  it.onReadable('e', onReadable);
  it.onWritable('e', onWritable);
  it.onWritable(onWritable);
  it.onData(onMessage);
  it.disable();
  it.enable();
  console.log(owner, states);
}

async function destination(it: Destination, to: Unit): Promise<void> {
  const options: EmitOptions = { event: 'e', timeout: 1, unit: to };
  const ready: boolean = it.ready;
  const owner: Peer = it.peer;
  const units: Unit[] = it.units;
  const sentTo: Unit | undefined = it.send('e', values[0], (error) => console.log(error));
  it.send(options, null);
  it.broadcast('e', values);
  const ctx: Context = await it.request(options, { a: 1 });
  const raw: Buffer = ctx.origin.raw;
  const type: string = ctx.origin.type + ctx.type + ctx.role + ctx.event;
  it.request('e', null, (error: Error | null, answer: Context) => console.log(error, answer.data));
  const count: number = it.survey('e', null, (error: Error | null, answer: Context) => console.log(error, answer));
  const readable: Readable = it.Readable('e', null, { highWaterMark: 1 });
  const writable: Writable = it.Writable(options, null, { highWaterMark: 1 });
  it.on('unit', (joined: Unit) => console.log(joined)).on('close', () => {});
  console.log(it.name, ready, owner, units, sentTo, raw, type, count, readable, writable);
}

export { destination, peers, role, unit };
