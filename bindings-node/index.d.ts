/// <reference types="node" />
import { EventEmitter } from 'events';
import * as http from 'http';
import * as https from 'https';
import { LookupFunction, Socket } from 'net';
import { Readable, ReadableOptions, Writable, WritableOptions } from 'stream';
import { ConnectionOptions, PeerCertificate, SecureContextOptions } from 'tls';

// Options.

/** Options of a peer. */
export interface PeerOptions {
  /** Whether it wants to be told of other peers, and dials those that serve its destinations. Default true. */
  friendly?: boolean;
  /**
   * The networks in which addresses from other units are dialed, as a list or a text with commas: `public`, `private`,
   * `loopback`, `link_local`, blocks such as `10.0.0.0/8`, or `near`, which stands for loopback and private addresses
   * from units that have such an address themselves. Default `public, near`. Addresses given to `connect` are not
   * filtered.
   */
  acquaintanceNetworks?: string | string[];
  /**
   * The ports of these addresses, as a list or a text with commas: numbers, ranges such as `9000-9100`, or `any`.
   * Default `80, 443, 1024-65535`: below that are mail, name servers and the like.
   */
  acquaintancePorts?: string | (string | number)[];
  /**
   * Maximum age of a permanently dialed connection, in milliseconds. It is then replaced by a new one to the same
   * address, so that changed certificates and keys take effect; nothing is lost. The actual age is up to a tenth less, at
   * random. Default: never.
   */
  connectionAge?: number;
  /** The name shown to others. Default empty. */
  name?: string;
  /** How its destinations choose a unit that do not say it themselves. Default `round-robin`, as in roletalk 1.1.3. */
  balance?: Balance;
  /** Which units its destinations leave out that do not say it themselves, see `Ejection`. Default none. */
  eject?: boolean | Ejection;
  /** Who may call and serve what, see `Peer.setPolicy`. Default everyone everything. */
  policy?: Policy | string | null;
  /**
   * Origins whose pages may connect, such as `https://app.example.org`; `*` stands for all. Default none: upgrades with
   * an `Origin` are refused with 403. Browsers send one, others do not, and a page that somebody opens on this machine
   * could reach this peer.
   */
  origins?: readonly string[];
  /**
   * Headers of upgrades that are kept as part of the `Identity`, at most 8 KiB of each upgrade. Default none. Whoever
   * dials chooses what is in them, unless a proxy does.
   */
  identityHeaders?: readonly string[];
  /** Judges each upgrade before it is answered, see `Authenticate`. Default everyone gets in. */
  authenticate?: Authenticate;
  /**
   * Whether proofs of preshared keys are bound to the TLS connection, so that nobody can relay them.
   *
   * - `prefer`, the default: a challenge that names another connection is refused. One that names none, as from
   *   roletalk 1.1.3, is answered.
   * - `require`: the key is proved only for a challenge that names this connection, so only over TLS.
   * - `disable`: connections are neither named nor compared, for proxies that terminate TLS with another certificate.
   */
  channelBinding?: 'disable' | 'prefer' | 'require';
  /**
   * The peer's own key: 32 random bytes, to be kept secret like other private keys. The peer's id begins with the name
   * of the key. Over TLS nobody else can claim that id, and others recognize the peer after a restart by
   * `identity.peer`. Default: none.
   */
  peerKey?: Uint8Array;
}

// Who may call and serve what.

/**
 * The units that a rule applies to: those that match every member; of a list, one entry has to match. In names and
 * values, `*` stands for any text.
 */
export interface PolicyWho {
  /** The id of the preshared key; a version behind a `#` may be left out. */
  key?: string | readonly string[];
  /** The name of the peer's own key. */
  peer?: string | readonly string[];
  /** A name in the certificate with its type, such as `dns:a.example` or `uri:spiffe://prod/a`. */
  certificate?: string | readonly string[];
  /** The subject of the certificate, such as `CN=billing,O=Example`. */
  subject?: string | readonly string[];
  /** SHA-256 of the certificate in hexadecimal digits. */
  fingerprint?: string | readonly string[];
  /** Claims of `Authenticate`, and their values. */
  claim?: { readonly [name: string]: string | number | boolean | readonly (string | number | boolean)[] };
  /** IP addresses and networks, such as `10.0.0.0/8`. */
  address?: string | readonly string[];
}

/**
 * What may be called: `role/event`, or `role` for all its events; or the same in parts, and only of some kinds. `*` stands
 * for anything.
 */
export type PolicyCall =
  | string
  | {
      role: string;
      event?: string;
      kinds?: readonly ('message' | 'request' | 'readable' | 'writable')[];
    };

/** What somebody may do, or must not. */
export interface PolicyRule {
  who: 'any' | PolicyWho;
  call?: readonly PolicyCall[];
  /** Roles that they may serve for this peer. */
  serve?: readonly string[];
  /** What they must not, whatever other rules allow. */
  deny?: { call?: readonly PolicyCall[]; serve?: readonly string[] };
  comment?: unknown;
}

/**
 * Who may call which events of this peer's roles, and who may serve which roles for it. A denial overrides every
 * permission. `default` applies to everything that no rule names; without it, that is denied. docs/POLICY.md in the
 * repository has the full description.
 */
export interface Policy {
  default?: 'allow' | 'deny' | { call?: 'allow' | 'deny'; serve?: 'allow' | 'deny' };
  rules?: readonly PolicyRule[];
  comment?: unknown;
}

/** What a unit was not allowed. */
export interface Denial {
  /** What it has called, or `serve` when it has announced the role. */
  readonly what: 'message' | 'request' | 'readable' | 'writable' | 'serve';
  /** The role, as far as it fits into 128 bytes. */
  readonly role: string;
  /** The event, likewise; empty for an announcement. */
  readonly event: string;
  /** How often the unit was denied something since this was told last. This is the last one. */
  readonly count: number;
}

// Who is at the other end.

/** A certificate that TLS has verified. */
export interface Certificate {
  /** Such as `CN=billing,O=Example`; empty when it has none. */
  readonly subject: string;
  /** Its alternative names, each with its type: `dns:a.example`, `uri:spiffe://prod/a`, `ip:10.0.0.1`, `email:a@example.org`. */
  readonly names: readonly string[];
  /** SHA-256 of the whole certificate, 64 lowercase hexadecimal digits. */
  readonly fingerprint: string;
  /** When it expires, in seconds since 1970. */
  readonly expires: number;
}

/** What the application knows of somebody: an object with a JSON form of at most 8 KiB. */
export interface Claims {
  /** Who it is, as in a JSON Web Token: all connections of a unit have the same. */
  readonly sub?: string;
  readonly [name: string]: unknown;
}

/** Who is at the other end of a connection: what it has shown, beside what it says of itself. It cannot be changed. */
export interface Identity {
  /** The id of the preshared key that it has proved; null when this peer asks for no proof. */
  readonly key: string | null;
  /** The name of its own key, when it has one and has proved that its id belongs to that. */
  readonly peer: string | null;
  /** Its certificate; null when it has shown none, or one that was not verified (`rejectUnauthorized: false`). */
  readonly certificate: Certificate | null;
  /** What `authenticate` has returned when the connection was accepted; otherwise empty. */
  readonly claims: Claims;
  /** Where the connection comes from or leads to, such as `127.0.0.1:9000`. */
  readonly address: string | null;
  /** The headers of its upgrade that are kept, names in lower case. Several of one name are as Node joins them. */
  readonly headers: readonly (readonly [name: string, value: string])[];
  /** Whether this peer has dialed it. */
  readonly dialed: boolean;
}

/** A request for an upgrade. */
export interface UpgradeRequest {
  /** The path that is asked for, without the query. */
  readonly path: string;
  /** The headers, such as `authorization`. They may be secrets. */
  readonly headers: http.IncomingHttpHeaders;
  /** Where the connection comes from. */
  readonly address: string | null;
  /** The certificate that was shown, if TLS has verified it. */
  readonly certificate: Certificate | null;
  /** The request itself. */
  readonly request: http.IncomingMessage;
}

/**
 * Judges an upgrade before it is answered. It returns claims, or a promise of them; `{}` accepts without claims. False
 * refuses with 403. So does an exception or a rejection, unless its `status` is from 400 to 599: then that is the
 * answer. The reason appears only in this side's log (`NODE_DEBUG=roletalk`). Any other result refuses with 500 and
 * causes a process warning.
 *
 * A promise has to settle within 4 s, or the `handshakeTimeout` of `listen`; then the answer is 503. If the connection
 * ends or the peer is closed meanwhile, the result is ignored.
 */
export type Authenticate = (request: UpgradeRequest) => Claims | false | PromiseLike<Claims | false>;

/** Options to listen with. */
export interface ListenOptions {
  /** The port, 0 for any that is free. Must be given. */
  port?: number;
  /** The address to bind to. Default all. */
  host?: string;
  /** A server to use instead of one of its own. */
  server?: http.Server | https.Server;
  /** Certificate and key, as PEM or as files, to accept `wss` only. */
  ssl?: SecureContextOptions & TlsFiles & { requestCert?: boolean; rejectUnauthorized?: boolean };
  /** The only path that is served. Default all. */
  path?: string;
  /**
   * Milliseconds from accept to the end of the handshake, TLS and upgrade included. Default 4 000; then the
   * connection is destroyed. With `server`, which has limits of its own, the time runs from the upgrade.
   */
  handshakeTimeout?: number;
  /**
   * Unauthenticated connections. Default 1 024, or a quarter of the process's limit on file descriptors if that is
   * less. Beyond it, the oldest one of the address that has the most is destroyed.
   */
  maxHandshakes?: number;
  /**
   * Unauthenticated connections from one IPv4 address or one IPv6 network (/64). Default 1 024. Beyond it, the oldest
   * one from there is destroyed.
   */
  maxHandshakesPerAddress?: number;
}

/** Options to serve with. */
export interface ServeOptions {
  /** Milliseconds after which it closes although something is under way. Default 10 000. */
  drain?: number;
}

/**
 * Certificates from files, which can change while they are in use: with `reloadTls`, or by watching. New handshakes use
 * the new ones; existing connections stay. Incomplete, expired or mismatched certificates change nothing.
 */
export interface TlsFiles {
  /** The certificate chain (PEM), leaf first. */
  certFile?: string | URL;
  /** Its key (PEM). */
  keyFile?: string | URL;
  /** The authorities (PEM). A listener then asks for certificates, unless `requestCert` is false. */
  caFile?: string | URL;
  /**
   * Milliseconds between two checks of the files; `true` stands for 10 000. Changed files are loaded, with the event
   * `tls_reload_success`. Unusable ones are reported once for each change with `tls_reload_fail`, when a second check,
   * after at most a second, finds the same fault. Default: they are not watched.
   */
  watch?: number | boolean;
}

/** What `connect` takes beside the options of the socket. */
export interface ConnectOptions extends TlsFiles {
  /** Whether the address is dialed again when the connection is lost or cannot be made. Default true. */
  permanent?: boolean;
}

/** Options of the socket and the upgrade: those that `ws` has for its clients. */
export interface ClientOptions extends SecureContextOptions {
  agent?: http.Agent | https.Agent | boolean;
  checkServerIdentity?(servername: string, cert: PeerCertificate): Error | undefined | boolean;
  family?: number;
  followRedirects?: boolean;
  /** Milliseconds for connection and upgrade. Default 30 000. */
  handshakeTimeout?: number;
  headers?: { [name: string]: string | string[] | number };
  localAddress?: string;
  lookup?: LookupFunction;
  maxRedirects?: number;
  /**
   * The header `Origin` of the upgrade, as browsers send it. Peers of this implementation refuse an upgrade that has one,
   * with 403, unless they are told to allow it, see `PeerOptions.origins`.
   */
  origin?: string;
  protocolVersion?: 8 | 13;
  /** Whether the certificate of the other side is verified. Default true, unlike in roletalk 1.1.3. */
  rejectUnauthorized?: boolean;
  servername?: string;
  ALPNProtocols?: ConnectionOptions['ALPNProtocols'];
  [option: string]: any;
}

/** The value of a header that is sent: text, or bytes. */
export type HeaderValue = string | Uint8Array;

/**
 * Headers to send, by their names or as pairs; several values go under the same name. Names have `a` to `z`, digits,
 * `-`, `_` and `.`, at most 128 of them, and do not begin with `rt-`. Names and values of all have 8 KiB at most, and
 * there are at most 128. Otherwise the call fails with `INVALID_ARGUMENT` or `TOO_LARGE`, and nothing is sent.
 */
export type OutgoingHeaders =
  | { readonly [name: string]: HeaderValue | readonly HeaderValue[] }
  | Iterable<readonly [string, HeaderValue | readonly HeaderValue[]]>;

/** A trace context, as the W3C has it. `tracestate` and `baggage` need a `traceparent` to go with. */
export interface TraceContext {
  /** Such as `00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01`. */
  traceparent?: string;
  /** At most 512 bytes. */
  tracestate?: string;
  /** At most 8 KiB. */
  baggage?: string;
}

/** A unit that a function can choose. */
export interface Candidate {
  unit: Unit;
  /** Requests that wait for its answer, those for streams included. */
  waiting: number;
  /**
   * Milliseconds that an answer is likely to take; 0 when nothing is known. Above 1 000 only for a unit that owes
   * answers and gives none.
   */
  answerTime: number;
}

/**
 * How a unit is chosen among those that serve a role.
 *
 * - `round-robin`: one after the other.
 * - `least-loaded`: one after the other, but instead of one another that is clearly better: that has fewer requests to
 *   answer, or is likely to answer in less than half of the time. What was slow is asked again after some seconds.
 * - A function: it is given those that can be asked, at least one, and returns the `unit` of one of them, or nothing
 *   when none will do: then it is as if there were none. It is called on the thread of the event loop, once for each
 *   message, request or stream, and again when that goes on to another unit or waits for one. It may do anything, close
 *   the peer included. What it throws, and what it returns that is no candidate, is an error of the call with the code
 *   `INVALID_ARGUMENT`, and nothing is sent.
 */
export type Balance =
  | 'round-robin'
  | 'least-loaded'
  | ((candidates: Candidate[]) => Unit | null | undefined | void);

/**
 * When a unit that keeps failing is left out for a while; what is not given is the default, and `true` stands for all of
 * it. Never more than half of the units that serve a role are left out. A unit is asked again, once, when its time is over:
 * if that fails, too, it is left out for twice as long, otherwise it is as good as any. What it has failed with before
 * counts as well, whatever it was asked for.
 */
export interface Ejection {
  /** So many requests in a row that fail, from 1 on. Default 5. A request fails when it is not answered within its time. */
  failures?: number;
  /**
   * Whether rejections are failures, too: by handlers, for want of a handler, or because the unit is overloaded. Default
   * false, since a handler may reject what is wrong with the request.
   */
  rejections?: boolean;
  /** Milliseconds that the unit is left out at first. Default 5 000. */
  time?: number;
  /** The most milliseconds that it is left out. Default 60 000. */
  most?: number;
}

/** How a unit that serves a role stands. */
export interface Standing {
  unit: Unit;
  /** Requests that wait for its answer, those for streams included. */
  waiting: number;
  /** Milliseconds that an answer is likely to take, see `Candidate`. */
  answerTime: number;
  /** Requests in a row that were not answered in time. */
  unanswered: number;
  /** Requests in a row that were rejected. */
  rejected: number;
  /**
   * Milliseconds for which it is still left out, 0 while one request finds out whether it has recovered; undefined when it
   * is not left out.
   */
  ejected: number | undefined;
}

/** Tags that a unit should have, and their values. */
export interface PreferredTags {
  readonly [tag: string]: string;
}

/** What a destination is asked to do. */
export interface EmitOptions extends TraceContext {
  /** Which handler is meant. */
  event: string;
  /**
   * Milliseconds to wait for an answer, of which the handler is told. Default five minutes, of which it is not.
   * Requests and streams only.
   */
  timeout?: number;
  /**
   * The unit that is meant. Default one that is chosen, or several, see `Destination.request`. When it is given,
   * `balance`, `prefer` and `key` are ignored.
   */
  unit?: Unit;
  /**
   * How the unit is chosen, otherwise than the destination does. Messages, requests and streams only, and so are
   * `prefer` and `key`: broadcasts and surveys go to all.
   */
  balance?: Balance;
  /** Other tags than the destination prefers; `{}` for none. */
  prefer?: PreferredTags;
  /**
   * Chooses the same unit for the same key as long as it is there, among those that are preferred and in place of
   * `balance`. All peers choose alike, in every language. Units are told apart by their names, which outlive a restart;
   * one without a name, or with one that another unit has too, is known by its id, which does not.
   */
  key?: string | Uint8Array;
  /**
   * Whether it waits for a unit, within its time, when none serves the role or all have been asked. Default what
   * `Peer.destination` was told, or else false: then it fails. Requests and streams that are for no certain unit only.
   * Where 1 048 576 of a peer wait already, it fails with `OVERLOADED`.
   * Ends with `TIMEOUT`, with `CLOSED` when the peer is closed, and with the signal. The process is kept alive
   * meanwhile, see `Peer.unref`.
   */
  waitForUnit?: boolean;
  /**
   * Gives up waiting for the answer, or for a stream to be accepted: that fails with the signal's reason, and the
   * handler is told. When it is aborted already, nothing is sent, messages included.
   */
  signal?: AbortSignal;
  /** What goes with the data besides. */
  headers?: OutgoingHeaders;
  /**
   * Whether units that take no headers are no candidates: then it fails with `UNSUPPORTED`. Default false: for them,
   * headers and trace context are left out.
   */
  requireHeaders?: boolean;
  /**
   * False for what a handler asks for on its own account. Otherwise it inherits the request's trace context, unless
   * one is given, has at most as much time as it, and is given up with it.
   */
  inherit?: boolean;
}

/** Options of a destination. All of the program that uses the peer has the same one. */
export interface DestinationOptions {
  /** What requests and streams do that do not say it themselves, see `EmitOptions`. */
  waitForUnit?: boolean;
  /** How a unit is chosen where the call does not say it. Default as the peer does. */
  balance?: Balance;
  /**
   * Only units that have all of these tags, such as those in the same zone, are chosen as long as one of them can be
   * asked; any other one otherwise. `{}` for none, which is the default.
   */
  prefer?: PreferredTags;
  /** Which units are left out, see `Ejection`; false for none. Default as the peer does. */
  eject?: boolean | Ejection;
  /**
   * How many requests may be in flight at a time, those for streams included, and those to a unit that is given; surveys
   * are not. Further ones fail with `OVERLOADED`. Default `Infinity`, which is no bound. When it changes, those that are in
   * flight do not count.
   */
  maxInFlight?: number;
  /** How requests are made again where the call does not say it, see `Retry`; false for not at all, which is the default. */
  retry?: Retry | false;
}

/** What a request is sent with. */
export interface RequestOptions extends EmitOptions {
  /**
   * Says that the request may be handled more than once, and how it is made again; false for not at all. Default what
   * `Peer.destination` was told, or else false. Ignored when `unit` is given.
   */
  retry?: Retry | false;
}

/** How requests are made again. */
export interface RetryOptions {
  /** Attempts in all, those besides a slow one included, from 1 on. Default 3. */
  attempts?: number;
  /**
   * Milliseconds before the second attempt. They double each time, and a random half of them is left out. Default 25. A
   * time that the handler asks for, see `HandlerError`, is kept to.
   */
  backoff?: number;
  /** The most milliseconds before any attempt. Default 1 000. */
  longest?: number;
  /** How many further requests there may be for each, from 0 to 1, and ten besides. Default 0.1. */
  budget?: number;
  /**
   * When a request is made a second time though the first one may still be answered: after so many milliseconds, or after
   * the time within which this part of all answers has come, from 0 to 1. Whichever answer is first counts, and the other
   * request is given up. Default never.
   */
  hedge?: { after: number; quantile?: undefined } | { quantile: number; after?: undefined };
}

/** Options of a handler. */
export interface HandlerOptions {
  /** Whether it goes on when nobody waits for its answer any more, and gives nothing that it asks for less time. */
  detached?: boolean;
}

// Data.

type sendableDatum = string | number | boolean | Object | Buffer | null | undefined;
/**
 * What can be sent. Buffers and other `Uint8Array`s travel as binary; further typed arrays, maps and sets as the
 * objects that JSON makes of them; functions, symbols and bigints as null.
 */
export type sendableData = sendableDatum | sendableDatum[];

/** What a unit runs on. */
export interface PeerMetaData {
  /** Operating system. */
  os: string;
  /** What runs the process. */
  runtime: string;
  /** Wall clock when it connected, in milliseconds since 1970. */
  time: number;
  /** Milliseconds since it was made, when it connected. */
  uptime: number;
  /** Version of the protocol. */
  protocol: string;
}

/** What a handler gets, and what a request resolves to. */
export interface Context<Data = any> {
  /** The payload. May be replaced by middleware. */
  data: Data;
  /** `binary`, `null`, `boolean`, `string`, `number` or `object`. May be replaced by middleware. */
  type: string;
  /** The payload as it came. */
  origin: {
    /** Its bytes. */
    raw: Buffer;
    /** Its type. */
    type: string;
  };
  /** Who sent it. */
  unit: Unit;
  /** The role that is meant; handlers only. */
  role: string;
  /** The event that is meant; handlers only. */
  event: string;
  /** What is answered; middleware of requests. */
  response?: any;
  /** What is rejected with, when it is truthy; middleware of requests. */
  error?: any;
  /** Round-trip time in milliseconds; answers only. */
  rtt?: number;
  /** Waits until the next handler has answered; handlers of requests only. */
  next?(): Promise<void>;
}

/** Headers that were received: of those with the same name, the first. It has no prototype. */
export interface IncomingHeaders {
  readonly [name: string]: string | Buffer | undefined;
}

/** What came with a payload. */
export interface Received extends Readonly<TraceContext> {
  readonly headers: IncomingHeaders;
  /** All headers in their order, those with the same name included. */
  getAllHeaders(): [name: string, value: string | Buffer][];
}

/** What a request resolves to, and what its callback gets with an answer or a rejection. */
export interface AnswerContext<Data = any> extends Context<Data>, Received {}

/** What a handler gets. */
export interface HandlerContext<Data = any> extends Context<Data>, Received {
  /** When the requester gives up, in milliseconds since 1970; undefined when it does not say, and for messages. */
  readonly deadline: number | undefined;
  /** Milliseconds until then, Infinity when it does not say. */
  remaining(): number;
  /**
   * Aborts when nobody waits for the answer any more: the requester has given up or is gone, or its time is up. The
   * reason is a `RoletalkError` with the code `CANCELLED` and the name `AbortError`, or `TIMEOUT` and `TimeoutError`.
   * Never aborts for messages, nor for detached handlers.
   *
   * Whoever takes it and has returned no promise need not answer any more once it has aborted.
   */
  readonly signal: AbortSignal;
}

/** What a handler of requests gets. */
export interface RequestContext<Data = any> extends HandlerContext<Data> {
  /**
   * Sets a header of the answer, in place of those of this name; at any time before it is sent. Throws at what cannot
   * be sent, see `OutgoingHeaders`.
   */
  setHeader(name: string, value: HeaderValue | readonly HeaderValue[]): void;
}

/** What a handler of requests to write to this peer gets. */
export interface ReadableRequestContext<Data = any> extends RequestContext<Data> {
  /** What the unit writes. */
  readable: Readable;
}

/** What a handler of requests to read from this peer gets. */
export interface WritableRequestContext<Data = any> extends RequestContext<Data> {
  /** What the unit reads. */
  writable: Writable;
}

/** The context of a unit's request to write to this peer. */
export interface ContextForReadable<Data = any> extends Context<Data> {
  /** What the unit writes. */
  readable: Readable;
}

/** The context of a unit's request to read from this peer. */
export interface ContextForWritable<Data = any> extends Context<Data> {
  /** What the unit reads. */
  writable: Writable;
}

/** Answers a request: with an error if that is truthy, else with data. */
export type RequestCallback<Answer = sendableData> = (err: any, data?: Answer) => void;
/** Handles messages. */
export type MessageHandler<Data = any> = (ctx: Context<Data>) => void;
/**
 * Handles requests of an event: calls back with the answer, or returns it. What a function without a second parameter
 * returns or its promise resolves to is the answer, unless it is undefined, or another handler of the event has a
 * second parameter; a promise of nothing is null where it is the only handler of its event. What it throws or rejects
 * with, rejects the request.
 */
export type AnsweringHandler<Data = any, Answer = sendableData> = (
  ctx: RequestContext<Data>,
  cb: RequestCallback<Answer>,
) => Answer | Promise<Answer | void> | void;
/** Handles requests. What it throws or rejects with, rejects the request. */
export type RequestHandler<Data = any, Answer = sendableData> = (
  ctx: Context<Data>,
  cb: RequestCallback<Answer>,
) => void;
/** Handles requests to read from this peer. */
export type WritableHandler<Data = any> = (ctx: ContextForWritable<Data>, cb: RequestCallback) => void;
/** Handles requests to write to this peer. */
export type ReadableHandler<Data = any> = (ctx: ContextForReadable<Data>, cb: RequestCallback) => void;

// Errors.

/** Codes of errors; they never change. */
export type ErrorCode =
  | 'INVALID_ARGUMENT'
  | 'CLOSED'
  | 'NO_UNIT'
  | 'TIMEOUT'
  | 'REJECTED'
  | 'CONNECTION_LOST'
  | 'OVERLOADED'
  | 'TOO_LARGE'
  | 'AUTH_REFUSED'
  | 'CONNECT_FAILED'
  | 'PROTOCOL'
  | 'STREAM_CLOSED'
  | 'DATA'
  | 'IO'
  | 'TLS'
  | 'HANDLER_PANICKED'
  | 'HANDLER_FAILED'
  | 'HEARTBEAT_TIMEOUT'
  | 'UNSUPPORTED'
  | 'CANCELLED';

/** All codes. */
export const errorCodes: readonly ErrorCode[];

/** An error of this package. Its `cause`, if there is one, is the error of the system with its own `code`. */
export class RoletalkError extends Error {
  constructor(code: ErrorCode, message: string, options?: { cause?: unknown; hint?: string; failure?: HandlerFailure });
  /** What went wrong. */
  code: ErrorCode;
  /** What there is to know besides the message, and what to try: for people, in English. */
  hint?: string;
  /** What the handler says of its failure besides the text, if it does; of rejections. */
  failure?: HandlerFailure;
  /** Of the reason of a handler's `signal`: why nobody waits any more. */
  reason?: 'requester' | 'deadline' | 'unit_lost';
  /** What roletalk 1.1.3 has as text of this error: `Error: message`, or `message` where it has a string. */
  toString(): string;
}

/** What a requester is told of a handler's failure besides its text. */
export interface HandlerFailure {
  /** A name for programs. */
  code?: string;
  /** What belongs to it. */
  data?: unknown;
  /** After how many milliseconds it is worth trying again. */
  retryAfter?: number;
  /** Whether surely no handler has begun, so that another unit may be asked. */
  unhandled: boolean;
}

/**
 * What a handler fails with to have the requester told more than the text, as `error.failure`. It is an answer, and
 * not reported as `handler_error`. Of all other errors only the text is sent. May be extended.
 */
export class HandlerError extends Error {
  /** Code and data, as JSON, have 8 KiB at most: otherwise they are left out, which `handler_error` tells of. */
  constructor(
    message?: string,
    options?: { code?: string; data?: unknown; retryAfter?: number; cause?: unknown },
  );
  /** A name for programs. */
  code?: string;
  /** What belongs to it: something with a JSON form. null counts as none. */
  data?: unknown;
  /** After how many milliseconds it is worth trying again. */
  retryAfter?: number;
}

// Connections.

/** A connection to a unit: the parts of a `ws` WebSocket that make sense for one that carries roletalk. */
export interface Connection extends EventEmitter {
  /** What was dialed; undefined for one that was accepted. */
  readonly url: string | undefined;
  /** 0 connecting, 1 open, 2 closing, 3 closed. */
  readonly readyState: 0 | 1 | 2 | 3;
  readonly CONNECTING: 0;
  readonly OPEN: 1;
  readonly CLOSING: 2;
  readonly CLOSED: 3;
  readonly protocol: string;
  readonly extensions: string;
  /**
   * Who is at the other end; null until the handshake is over. All connections of a unit agree in all but address, headers
   * and direction.
   */
  readonly identity: Identity | null;
  /** Bytes that wait in the socket. */
  readonly bufferedAmount: number;
  /** Closes it; an address that is dialed permanently is dialed again. */
  close(code?: number, reason?: string): void;
  /** Destroys the socket. */
  terminate(): void;
  /** Sends a ping with at most 125 bytes; the event `pong` has them. */
  ping(data?: any, mask?: boolean, cb?: (err?: Error | null) => void): void;
  ping(data: any, cb: (err?: Error | null) => void): void;
  ping(cb: (err?: Error | null) => void): void;

  on(event: 'close', listener: (code: number, reason: string) => void): this;
  on(event: 'error', listener: (error: Error) => void): this;
  on(event: 'ping' | 'pong', listener: (data: Buffer) => void): this;
  on(event: string | symbol, listener: (...args: any[]) => void): this;
}

/** What `connect` resolves to. */
export interface Connected {
  unit: Unit;
  ws: Connection;
}

// Counters.

/** Counters of a connection. */
export interface ConnectionStats {
  framesSent: number;
  framesReceived: number;
  bytesSent: number;
  bytesReceived: number;
  /** Bytes that wait to be written. */
  queued: number;
  /** Milliseconds of the last ping, null before the first answer. */
  roundTrip: number | null;
}

/** Counters of a unit. */
export interface UnitStats {
  messagesSent: number;
  messagesReceived: number;
  /** Messages that were dropped because too many handlers ran. */
  messagesDropped: number;
  requestsSent: number;
  requestsReceived: number;
  /** Messages and requests of the unit, those for streams included, that the policy did not allow. */
  denied: number;
  /** Requests that were rejected because too many handlers ran. */
  requestsShed: number;
  /** Requests that were not begun, since their time was up or their requester had given up. */
  requestsExpired: number;
  /** Requests of the unit that came after this peer had withdrawn its roles, and were not begun. */
  requestsTurnedAway: number;
  /** Requests that the unit has surely not begun, and that went on to another one. */
  requestsRerouted: number;
  /** Requests to the unit that were given up, of which it was told. */
  cancelsSent: number;
  /** Requests of the unit that it has given up, running or not. */
  cancelsReceived: number;
  /** What was sent without its headers and trace context, since the unit does not take them. */
  fieldsLeftOut: number;
  /** Requests that wait for an answer. */
  waiting: number;
  /** Handlers that have not answered. */
  running: number;
  /** Bytes of what those handlers were given. */
  runningBytes: number;
  /** Open streams. */
  streams: number;
  streamBytesSent: number;
  streamBytesReceived: number;
  /** Milliseconds that the last answer took, null before the first. */
  lastAnswer: number | null;
  /**
   * Milliseconds that its answers take, smoothed, 1 000 at most; null before the first. What the balance `least-loaded`
   * counts with.
   */
  answerTime: number | null;
  connections: ConnectionStats[];
}

/** Counters of a peer. */
export interface PeerStats {
  /** Requests that wait, handlers that have not answered, streams that are open. */
  busy: number;
  /** Handlers that threw or rejected, or got data that cannot be read. */
  handlerErrors: number;
  /** Accepted connections that are not authenticated yet. */
  handshakes: number;
  /**
   * Addresses that units have told and that were not dialed, see `acquaintanceNetworks`. One whose name resolves to such
   * addresses counts for each attempt.
   */
  addressesIgnored: number;
  units: ({ id: string; name: string | undefined } & Partial<UnitStats>)[];
}

// Peers.

/** The local node: it listens, connects, offers roles, and knows what units offer. */
export class Peer extends EventEmitter {
  constructor(options?: PeerOptions);
  /** The name shown to units that connect from now on. */
  name: string;
  /** See `PeerOptions`. */
  friendly: boolean;
  /** Unique for the lifetime of this peer. */
  get id(): string;
  /** The port that this peer listens on. */
  get port(): number | undefined;
  /** Adds a key: only units that share one of the keys are let in. */
  addPresharedKey(id: string, key: string): this;
  /** Removes a key; false when there is none. Connections that are up stay. Without any key everyone gets in. */
  removePresharedKey(id: string): boolean;
  /** Sets a tag shown to units that connect from now on. */
  setTag(key: string, value: string): void;
  /** This peer's tags. */
  getTags(): { [key: string]: string };
  /**
   * Sets the policy from now on, including for connected units: an object, its JSON, or null, which allows everything.
   * Stops watching a policy file. Throws `INVALID_ARGUMENT` for an unusable policy, with the place of the fault; then
   * nothing has changed.
   */
  setPolicy(policy: Policy | string | null): void;
  /**
   * Takes the policy from a file, and again within a second after each of its changes. Resolves when it is in force.
   * Rejects with `INVALID_ARGUMENT` when there is no usable policy in the file, and with `CLOSED`; then nothing has changed. A
   * later change that cannot be read or has a fault changes nothing either: the event `policy_failed` says why, once for
   * each change of the file; `policy_loaded` tells that a new one is in force.
   *
   * Replace the file by renaming another one to it, so that no half of it is ever read. The file is not looked at while the
   * peer is closed, and keeps no process alive.
   */
  watchPolicy(path: string): Promise<void>;
  /** To be called before `handleUpgrade`, when this peer does not listen itself. */
  prepareWSServer(): void;
  /**
   * Takes a request for an upgrade of somebody else's HTTP server. Its origin is checked, and `authenticate` is asked, as for
   * those of `listen`.
   */
  handleUpgrade(request: http.IncomingMessage, socket: Socket, upgradeHead: Buffer): void;
  /**
   * Listens. Throws when the arguments are unusable, or it listens already. With a callback, it returns nothing,
   * whatever the type says, which is the original's.
   */
  listen(options: ListenOptions | number, cb?: Function): Promise<Peer>;
  /**
   * Closes all connections and the server, and stops dialing. The callback is called when all is closed, and
   * nothing that this peer had of the system is left. What waits (`connect`, `listen`, `whenReady`, requests,
   * streams) fails; promises among that need not be looked at.
   */
  close(cb?: (err?: Error) => void): http.Server | https.Server | undefined;
  /**
   * Withdraws the roles, lets what is under way finish, and closes. What units have sent before they know is
   * handled; later requests go on to other units, and those of originals are handled as long as they are connected.
   * Peers that begin it in the same turn of the loop close in the same turn when they reach the same limit.
   * @param limit milliseconds after which it closes in any case, default 10 000
   */
  drain(limit?: number): Promise<void>;
  /**
   * Serves until SIGINT or SIGTERM, then drains, and resolves. A second signal ends the process at once, with the
   * exit code that shells have for the signal; a SIGINT within half a second of another is the same Ctrl-C, which
   * `npm run` passes on. Resolves also when the peer is closed. To be called once it
   * listens or dials.
   */
  serve(options?: ServeOptions): Promise<void>;
  /**
   * Has the process kept alive, as it is from the beginning, while this peer dials addresses that it was given,
   * or somebody waits for a unit.
   */
  ref(): this;
  /**
   * Has dialing and waiting keep the process alive no more, as in roletalk 1.1.3. What listens or is connected does
   * all the same.
   */
  unref(): this;
  /** Closes; for `await using`. */
  [Symbol.asyncDispose](): Promise<void>;
  /**
   * Dials an address, and dials it again when the connection is lost, unless `permanent` is false. The promise tells
   * the first outcome. Where that is a failure and the address is dialed again, nobody has to look at it: the
   * event `reconnect_fail` tells of further ones.
   */
  connect(address: string, options?: ClientOptions & ConnectOptions): Promise<Connected>;
  connect(address: string, cb: (err?: any, res?: Connected) => void): void;
  connect(
    address: string,
    options: (ClientOptions & ConnectOptions) | undefined,
    cb?: (err?: any, res?: Connected) => void,
  ): Promise<Connected>;
  /**
   * Reads the files of certificates again that it listens and dials with. The promise rejects with the first that
   * cannot be used; all are tried, and those that can be used are in force.
   */
  reloadTls(): Promise<void>;
  /**
   * Listens with other certificates from now on; what is not given stays. For a peer that listens with `ssl`. Throws
   * when they cannot be used, and changes nothing then.
   */
  replaceTls(pem: Pick<SecureContextOptions, 'ca' | 'cert' | 'key'>): void;
  /**
   * The earliest expiry of the certificates that this peer listens or dials with. A chain expires with the certificate
   * in it that expires first, a set of authorities with the one that expires last. For dialing, only certificates from
   * files count.
   */
  get tlsExpires(): Date | undefined;
  /** A role that units offer. Options that are given are those of the destination from now on. */
  destination(name: string, options?: DestinationOptions): Destination;
  /** A service of this peer, made if need be. */
  role(name: string, active?: boolean): Role;
  /** Connected units. */
  get units(): Unit[];
  /** This peer's roles. */
  get roles(): Role[];
  /** This peer's destinations. */
  get destinations(): Destination[];
  /** Counters. */
  stats(): PeerStats;
  /** Handles the messages of all roles, before their own handlers. */
  onMessage(handler: (ctx: HandlerContext) => void): void;
  /** Handles the requests of all roles, before their own handlers. What it returns is no answer. */
  onRequest(handler: (ctx: RequestContext, cb: RequestCallback) => void): void;
  /** Handles the requests to write, of all roles, before their own handlers. */
  onReadable(handler: (ctx: ReadableRequestContext, cb: RequestCallback) => void): void;
  /** Handles the requests to read, of all roles, before their own handlers. */
  onWritable(handler: (ctx: WritableRequestContext, cb: RequestCallback) => void): void;
  /** Handles everything of all roles, before all other handlers. */
  onData(handler: MessageHandler | RequestHandler | WritableHandler | ReadableHandler): void;

  /** All is closed, after `close`. */
  on(event: 'close', handler: () => void): this;
  /** A unit has connected. */
  on(event: 'unit', handler: (unit: Unit) => void): this;
  /** A role was made. */
  on(event: 'role', handler: (role: Role) => void): this;
  /** Certificates that it listens or dials with have changed: their files, or by a call. */
  on(event: 'tls_reload_success', handler: (info: { expires: Date | undefined }) => void): this;
  /** Files of certificates that are watched have changed, and cannot be used. What was in force stays. */
  on(event: 'tls_reload_fail', handler: (info: { error: RoletalkError }) => void): this;
  /** A handshake failed, whichever side refused. */
  on(event: 'auth_error', handler: (error: RoletalkError) => void): this;
  /**
   * Unauthenticated connections were evicted because there were too many (`OVERLOADED`), or file descriptors run out
   * (`IO`). The peer keeps accepting. Emitted at most once a second for each.
   */
  on(event: 'accept_error', handler: (error: RoletalkError) => void): this;
  /**
   * The policy did not allow what a unit has called, or a role that it has announced. Of what each unit calls, one a
   * second is told.
   */
  on(event: 'denied', handler: (unit: Unit, denial: Denial) => void): this;
  /** The watched file has changed, and the policy in it is in force. */
  on(event: 'policy_loaded', handler: (path: string) => void): this;
  /** The watched file has changed, and cannot be used: the policy before stays in force. */
  on(event: 'policy_failed', handler: (error: RoletalkError, path: string) => void): this;
  /** An address is connected after `count` attempts that failed. */
  on(event: 'reconnect_success', handler: (info: { address: string; count: number }) => void): this;
  /** One more attempt failed. */
  on(
    event: 'reconnect_fail',
    handler: (info: { address: string; count: number; error: RoletalkError }) => void,
  ): this;
  /**
   * A handler threw or rejected, or got data that cannot be read, and then the context has only the names and the
   * unit. The request, if it was one, is
   * rejected. Without a listener it is a warning of the process, at most ten in a second.
   */
  on(
    event: 'handler_error',
    handler: (error: any, ctx: Pick<Context, 'unit' | 'role' | 'event'> & Partial<Context>) => void,
  ): this;
  /** A unit does not read what is sent to it, or sends more than the handlers can take. */
  on(
    event: 'slow_consumer',
    handler: (info: { unit: Unit; queued: number; dropped: number }) => void,
  ): this;
  /**
   * A unit keeps failing, so the destination of the role leaves it out for a while, see the option `eject`. Emitted at
   * the next choice of a unit.
   */
  on(event: 'unit_ejected', handler: (info: { role: string; unit: Unit }) => void): this;
  /** A unit that was left out has recovered. Emitted at the next choice of a unit. */
  on(event: 'unit_restored', handler: (info: { role: string; unit: Unit }) => void): this;
  on(event: string | symbol, handler: (...args: any[]) => void): this;
}

/** A connected remote peer. */
export class Unit extends EventEmitter {
  private constructor();
  /** Unique for its lifetime. */
  readonly id: string;
  /** Its name. */
  get name(): string | undefined;
  /** What it runs on. */
  get meta(): PeerMetaData;
  /**
   * Its identity, as shown on the most recently opened connection: key, certificate, claims. Name, tags and id are only
   * what it says about itself.
   */
  get identity(): Identity;
  /** The roles that it serves now. */
  getRoles(): string[];
  /** Its tags. */
  getTags(): { [key: string]: string };
  /** Closes all its connections; it is not dialed again. */
  close(): void;
  /** Counters; undefined when it is closed. */
  stats(): UnitStats | undefined;

  /** The last connection is closed. */
  on(event: 'close', handler: () => void): this;
  /** It broke the protocol; the connection is closed. */
  on(event: 'error', handler: (error: RoletalkError) => void): this;
  on(event: string | symbol, handler: (...args: any[]) => void): this;
}

/** A service of the local peer. */
export class Role extends EventEmitter {
  private constructor();
  readonly name: string;
  /** Handles messages of an event, or of all. */
  onMessage<Data = any>(event: string, handler: (ctx: HandlerContext<Data>) => void): EventEmitter;
  onMessage(handler: (ctx: HandlerContext) => void): undefined;
  onMessage(event: string | MessageHandler, handler?: MessageHandler): EventEmitter | undefined;
  /** Handles requests of an event, or of all. A handler returns its answer, or calls back with it. */
  onRequest<Data = any, Answer = sendableData>(event: string, handler: AnsweringHandler<Data, Answer>): EventEmitter;
  onRequest<Data = any, Answer = sendableData>(
    event: string,
    options: HandlerOptions,
    handler: AnsweringHandler<Data, Answer>,
  ): EventEmitter;
  onRequest(handler: (ctx: RequestContext, cb: RequestCallback) => void): undefined;
  onRequest(event: string | RequestHandler, handler?: RequestHandler): EventEmitter | undefined;
  /** Handles requests to write to this peer, of an event, or of all. */
  onReadable<Data = any>(
    event: string,
    handler: (ctx: ReadableRequestContext<Data>, cb: RequestCallback) => void,
  ): EventEmitter;
  onReadable<Data = any>(
    event: string,
    options: HandlerOptions,
    handler: (ctx: ReadableRequestContext<Data>, cb: RequestCallback) => void,
  ): EventEmitter;
  onReadable(handler: (ctx: ReadableRequestContext, cb: RequestCallback) => void): undefined;
  onReadable(event: string | ReadableHandler, handler?: ReadableHandler): EventEmitter | undefined;
  /** Handles requests to read from this peer, of an event, or of all. */
  onWritable<Data = any>(
    event: string,
    handler: (ctx: WritableRequestContext<Data>, cb: RequestCallback) => void,
  ): EventEmitter;
  onWritable<Data = any>(
    event: string,
    options: HandlerOptions,
    handler: (ctx: WritableRequestContext<Data>, cb: RequestCallback) => void,
  ): EventEmitter;
  onWritable(handler: (ctx: WritableRequestContext, cb: RequestCallback) => void): undefined;
  onWritable(event: string | WritableHandler, handler?: WritableHandler): EventEmitter | undefined;
  /** Handles everything, before the other handlers of the role. */
  onData(handler: MessageHandler | RequestHandler | WritableHandler | ReadableHandler): void;
  /** Withdraws the role: units are told, requests are rejected, messages dropped. */
  disable(): void;
  /** Offers the role again. */
  enable(): void;
  /** Whether it is offered. */
  get active(): boolean;
  get peer(): Peer;
}

/** Why a unit gave no answer: a `RoletalkError`, or the reason of the signal. */
export type SurveyError = Error & { code?: string | number };

/** One answer to a survey. It has either `ctx` or `error`. */
export type SurveyAnswer<Data = any> =
  | { unit: Unit; ctx: AnswerContext<Data>; error?: undefined }
  | { unit: Unit; ctx?: undefined; error: SurveyError };

/**
 * The answers to a survey, in the order in which they come. Whoever leaves the loop before the end gives up what is
 * not answered yet: the handlers are told.
 */
export interface Survey<Data = any> extends AsyncIterable<SurveyAnswer<Data>> {
  /** How many units were asked. */
  readonly size: number;
}

/**
 * How requests are made again that may be handled more than once: after a lost connection, where a unit is overloaded, or
 * where the handler says when to try again; and besides one that is slow, if so told. Always at another unit than
 * before, as long as there is one, and all within the time of the request, which has one outcome. Without it, nothing is
 * ever made again that may have been begun. Streams are not.
 *
 * A value has an account of how many further requests there may be: use the same one for all requests of a kind.
 */
export class Retry {
  /** Throws `INVALID_ARGUMENT` at options that make no sense. */
  constructor(options?: RetryOptions);
  /** Requests that were made again after a failure. */
  get retried(): number;
  /** Requests that were made besides one that was slow. */
  get hedged(): number;
  /** Requests that were not made again because the account was empty. */
  get refused(): number;
}

/** A role that units offer. Which unit gets what, is said by `Balance`. */
export class Destination extends EventEmitter {
  private constructor();
  /** The units that serve it now. */
  get units(): Unit[];
  get name(): string;
  get peer(): Peer;
  /** How the units stand that serve it now, in their order: what the choice is made by, and who is left out. */
  standings(): Standing[];
  /** Whether any unit serves it. */
  get ready(): boolean;
  /**
   * Waits until a unit serves it. The process is kept alive meanwhile, see `Peer.unref`. Rejects with the code
   * `CLOSED` when the peer is closed, and with the signal's reason.
   */
  whenReady(options?: { signal?: AbortSignal; timeout?: number }): Promise<this>;
  /**
   * Sends a message. Returns the unit that it goes to, if any. The callback is called when it is written, or with
   * the reason why it is not.
   */
  send(event: string | EmitOptions, data?: sendableData, cb?: (err: any) => void): Unit | undefined;
  /** Sends a message to every unit. */
  broadcast(event: string | EmitOptions, data?: sendableData): void;
  /**
   * Asks a unit. Throws when there is none, unless it is to wait, see `EmitOptions.waitForUnit`. What that unit has
   * surely not begun goes on to the next one, to each once, within the same time; so do requests for streams.
   */
  request<Data = any>(event: string | RequestOptions, data?: sendableData): Promise<AnswerContext<Data>>;
  request<Data = any>(
    event: string | RequestOptions,
    data: sendableData,
    cb: (err: any, ctx: AnswerContext<Data>) => void,
  ): Promise<AnswerContext<Data>>;
  /** Asks every unit. Without a callback, the answers can be iterated over. */
  survey<Data = any>(
    event: string | EmitOptions,
    data: sendableData,
    cb: (err: any, ctx: AnswerContext<Data>) => void,
  ): number;
  survey<Data = any>(event: string | EmitOptions, data?: sendableData): Survey<Data>;
  /**
   * Asks a unit for a stream to read from. Throws when there is no unit, as `request`. Destroying it before it is accepted tells the
   * handler. The event `ready` has the `AnswerContext` of the acceptance.
   */
  Readable(event: string | EmitOptions, data?: sendableData, options?: ReadableOptions): Readable;
  /** Asks a unit for a stream to write to; otherwise as `Readable`. */
  Writable(event: string | EmitOptions, data?: sendableData, options?: WritableOptions): Writable;

  /** The first unit serves it. */
  on(event: 'open', handler: () => void): this;
  /** One more unit serves it. */
  on(event: 'unit', handler: (unit: Unit) => void): this;
  /** No unit serves it any more. */
  on(event: 'close', handler: () => void): this;
  on(event: string | symbol, handler: (...args: any[]) => void): this;
}

/** The peer that all modules of the program share; made at the first call. */
export let Singleton: (options?: PeerOptions) => Peer;

export const PEER_RECONNECT_SUCCESS_EVENT: 'reconnect_success';
export const PEER_RECONNECT_FAIL_EVENT: 'reconnect_fail';

/** Moves a unit between the destinations of a peer after its roles. */
export function refreshPeerDestinations(this: Peer, unit: Unit): void;
