// Every form in which the original's declarations can be used and shared.ts does not show: unions as arguments,
// callbacks beside promises, what is kept in variables of their types, and classes that extend them.

import { EventEmitter } from 'events';
import * as http from 'http';
import * as https from 'https';
import { Socket } from 'net';
import { Readable, ReadableOptions, Writable, WritableOptions } from 'stream';
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

/** Registers what it is given, as it is given: a handler for all events, or for one. */
class Registry {
  constructor(private readonly role: Role) {}

  message(event: string | MessageHandler, handler?: MessageHandler): EventEmitter | undefined {
    return this.role.onMessage(event, handler);
  }

  request(event: string | RequestHandler, handler?: RequestHandler): EventEmitter | undefined {
    return this.role.onRequest(event, handler);
  }

  readable(event: string, handler: ReadableHandler): EventEmitter | undefined {
    return this.role.onReadable(event, handler);
  }

  writable(event: string | WritableHandler, handler?: WritableHandler): EventEmitter | undefined {
    return this.role.onWritable(event, handler);
  }

  data(handler: MessageHandler | RequestHandler | WritableHandler | ReadableHandler): void {
    this.role.onData(handler);
    this.role.peer.onData(handler);
  }
}

/** Asks with whatever it is given. */
class Client {
  constructor(private readonly destination: Destination) {}

  send(event: string | EmitOptions, data: sendableData, cb?: (err: Error) => void): Unit | undefined {
    return this.destination.send(event, data, cb);
  }

  broadcast(event: string | EmitOptions, data: sendableData): void {
    this.destination.broadcast(event, data);
  }

  request(event: string | EmitOptions, data: sendableData): Promise<Context> {
    return this.destination.request(event, data);
  }

  ask(event: string | EmitOptions, data: sendableData, cb: (err: Error | null, ctx: Context) => void): number {
    const promise: Promise<Context> = this.destination.request(event, data, cb);
    console.log(promise);
    return this.destination.survey(event, data, cb);
  }

  streams(event: string | EmitOptions, data: sendableData, options?: ReadableOptions & WritableOptions): void {
    const readable: Readable = this.destination.Readable(event, data, options);
    const writable: Writable = this.destination.Writable(event, data, options);
    readable.pipe(writable);
  }
}

class Service extends Peer {
  constructor(options?: PeerOptions) {
    super(options);
    this.on('close', () => console.log(this.id));
    this.on('unit', (unit: Unit) => console.log(unit.id));
    this.on('role', (role: Role) => console.log(role.name));
  }

  listen(options: ListenOptions | number, cb?: Function): Promise<Peer> {
    return super.listen(options, cb);
  }

  close(cb?: (err?: Error) => void): http.Server | https.Server | undefined {
    return super.close(cb);
  }
}

async function peers(options?: ConnectOptions): Promise<void> {
  const peer = new Service(Math.random() > 2 ? { name: 'a', friendly: true } : undefined);
  const started: Promise<Peer> = peer.listen({ port: 0 }, (error?: Error) => console.log(error));
  const again: Peer = await peer.listen(0, undefined);
  const connecting: Promise<{ unit: Unit }> = peer.connect(
    'ws://localhost',
    options,
    (error?: Error, result?: { unit: Unit }) => console.log(error?.message, result?.unit.name),
  );
  const { unit, ws } = await peer.connect('wss://localhost', { ...options, servername: 'a', headers: { a: 'b' } });
  ws.on('close', () => console.log('closed'));
  const shared: Peer = Singleton() ?? Singleton({ name: 'b' });
  http.createServer().on('upgrade', (request, socket, head) => peer.handleUpgrade(request, socket as Socket, head));
  peer.onMessage((ctx) => console.log(ctx.data.anything.at.all));
  peer.onRequest((ctx, cb) => cb(ctx.error, ctx.response));
  peer.onReadable((ctx, cb) => cb(null, ctx.readable.read()));
  peer.onWritable((ctx, cb) => cb(null, ctx.writable.write('')));
  console.log(await started, again, await connecting, shared, unit);
}

function contexts(unit: Unit): void {
  const meta: PeerMetaData = { os: 'a', runtime: 'b', time: 1, uptime: 2, protocol: 'c' };
  const origin = { raw: Buffer.alloc(0), type: 'null' };
  const ctx: Context = { data: null, type: 'null', origin, unit, role: 'a', event: 'b' };
  const readable: ContextForReadable = { ...ctx, readable: new Readable() };
  const writable: ContextForWritable = { ...ctx, writable: new Writable() };
  const answer: RequestCallback = (error: Error | null, data: sendableData) => console.log(error?.message, data);
  const handle: RequestHandler = async ({ data, next }, cb) => {
    await next?.();
    cb(null, data);
  };
  const all: sendableData[] = ['', 0, false, {}, [], null, undefined, [1, 'a'], Buffer.alloc(0), new Uint8Array(1)];
  unit.on('close', () => unit.close());
  unit.on('error', () => console.log(unit.getTags()['a'], unit.getRoles()[0], unit.meta === meta));
  handle(ctx, answer);
  console.log(readable, writable, all);
}

export { Client, Registry, Service, contexts, peers };
