// Deadlines, cancellation, headers, errors with a code, trace context, and handlers that return.

import { Readable, Writable } from 'stream';
import {
  AnswerContext,
  AnsweringHandler,
  Destination,
  EmitOptions,
  HandlerContext,
  HandlerError,
  HandlerFailure,
  HandlerOptions,
  IncomingHeaders,
  OutgoingHeaders,
  Peer,
  RequestContext,
  Role,
  RoletalkError,
  TraceContext,
} from 'roletalk';

interface Sum {
  sum: number;
}

const adds: AnsweringHandler<number[], Sum> = ({ data }) => ({ sum: data[0] + data[1] });
const addsLater: AnsweringHandler<number[], Sum> = async ({ data }) => ({ sum: data[0] + data[1] });
// @ts-expect-error: the answer is a sum
const wrong: AnsweringHandler<number[], Sum> = async ({ data }) => data[0];

class QuotaError extends HandlerError {
  constructor(public readonly left: number) {
    super('no quota', { code: 'QUOTA', data: { left }, retryAfter: 1_000, cause: new Error('why') });
  }
}

function handlers(role: Role, peer: Peer): void {
  const detached: HandlerOptions = { detached: true };
  role.onRequest('add', adds);
  role.onRequest('add', detached, addsLater);
  role.onRequest<number[], Sum>('add', async ({ data }) => ({ sum: data.length }));
  role.onRequest<number[], Sum>('add', ({ data }, cb) => cb(null, { sum: data.length }));
  role.onRequest<number[], Sum>('add', { detached: true }, ({ data }, cb) => cb(null, { sum: data.length }));
  // @ts-expect-error: the answer is a sum
  role.onRequest<number[], Sum>('add', async ({ data }) => data.length);
  // @ts-expect-error: here, too
  role.onRequest<number[], Sum>('add', (_ctx, cb) => cb(null, 5));
  role.onRequest<Sum>('nothing', async ({ data, remaining }) => console.log(data.sum, remaining()));
  role.onRequest('timer', (ctx, cb) => setTimeout(cb, 500, null, ctx.data));
  role.onRequest<Sum, string>('fetch', async (ctx: RequestContext<Sum>) => {
    const { signal, headers, traceparent, deadline } = ctx;
    const until: number | undefined = deadline;
    const tenant: string | Buffer | undefined = headers.tenant;
    const all: [string, string | Buffer][] = ctx.getAllHeaders();
    ctx.setHeader('tenant', ['a', Buffer.alloc(1)]);
    // @ts-expect-error: a value is text or bytes
    ctx.setHeader('cost', 5);
    // @ts-expect-error: there is nobody to abort it
    signal.abort();
    if (ctx.remaining() < 10) throw new QuotaError(0);
    return `${tenant} ${traceparent} ${until} ${all.length} ${signal.aborted}`;
  });
  role.onMessage<Sum>('note', (ctx: HandlerContext<Sum>) => console.log(ctx.data.sum, ctx.headers, ctx.baggage));
  role.onReadable<Sum>('up', detached, ({ readable, signal }, cb) => {
    const from: Readable = readable;
    cb(signal.aborted ? from.errored : null);
  });
  role.onWritable<Sum>('down', ({ writable, setHeader }, cb) => {
    const to: Writable = writable;
    setHeader('length', '5');
    cb(null, to.writable);
  });
  peer.onRequest(async (ctx) => {
    await ctx.next!();
    ctx.setHeader('served-by', peer.name);
  });
  peer.onReadable((ctx) => console.log(ctx.readable, ctx.tracestate));
}

async function calls(destination: Destination, signal: AbortSignal): Promise<void> {
  const headers: OutgoingHeaders = { tenant: 'blue', parts: ['a', new Uint8Array(1)] };
  const trace: TraceContext = { traceparent: '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01', baggage: 'a=b' };
  const options: EmitOptions = { event: 'e', timeout: 100, signal, headers, requireHeaders: true, inherit: false, ...trace };
  const ctx: AnswerContext<Sum> = await destination.request<Sum>(options, null);
  const received: IncomingHeaders = ctx.headers;
  destination.request<Sum>({ event: 'e', headers: new Map([['a', 'b']]) }, null, (_error, answer) => answer.headers.a);
  destination.send({ event: 'e', headers: [['a', 'b'], ['a', 'c']] });
  destination.broadcast(options);
  destination.Readable(options).on('ready', (answer: AnswerContext) => console.log(answer.headers, received.a));
  for await (const { ctx: answer } of destination.survey<Sum>(options)) console.log(answer?.data.sum, answer?.headers);
  // @ts-expect-error: a value is text or bytes
  destination.send({ event: 'e', headers: { a: 1 } });
}

function failure(error: unknown): unknown {
  if (!(error instanceof RoletalkError)) return undefined;
  const told: HandlerFailure | undefined = error.failure;
  if (told === undefined || told.unhandled) return undefined;
  const wait: number | undefined = told.retryAfter;
  return [told.code?.length, told.data, wait];
}

export { calls, failure, handlers, wrong };
