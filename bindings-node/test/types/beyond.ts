// What the original does not have.

import {
  Authenticate,
  Balance,
  Candidate,
  Certificate,
  Claims,
  Connected,
  Connection,
  Context,
  Denial,
  Destination,
  Ejection,
  ErrorCode,
  Identity,
  PEER_RECONNECT_FAIL_EVENT,
  PEER_RECONNECT_SUCCESS_EVENT,
  Peer,
  PeerStats,
  Policy,
  PolicyRule,
  Retry,
  RoletalkError,
  Standing,
  Survey,
  SurveyAnswer,
  UnitStats,
  UpgradeRequest,
  errorCodes,
  refreshPeerDestinations,
} from 'roletalk';

interface Sum {
  sum: number;
}

function adding(peer: Peer): void {
  const role = peer.role('math');
  role.onRequest<number[], Sum>('add', ({ data }, cb) => cb(null, { sum: data[0] + data[1] }));
  role.onMessage<Sum>('note', ({ data }) => console.log(data.sum));
  role.onReadable<Sum>('up', ({ data, readable }, cb) => cb(data.sum > 0 ? null : readable.errored));
  role.onWritable<Sum>('down', ({ data, writable }, cb) => cb(null, writable.write(`${data.sum}`)));
  // @ts-expect-error: the answer is a sum
  role.onRequest<number[], Sum>('add', (_ctx, cb) => cb(null, 5));
}

async function additions(peer: Peer, signal: AbortSignal): Promise<void> {
  const port: number | undefined = peer.port;
  const { unit, ws }: Connected = await peer.connect('wss://localhost', { servername: 'localhost' });
  const connection: Connection = ws;
  const buffered: number = connection.bufferedAmount;
  const destination = await peer.destination('math').whenReady({ signal });
  const ctx: Context<Sum> = await destination.request<Sum>({ event: 'add', signal }, [1, 2]);
  const waits: Destination = peer.destination('math', { waitForUnit: true });
  waits.Writable({ event: 'up', waitForUnit: false }, ctx.data).end();
  balanced(waits);
  // @ts-expect-error: it is true or false
  await waits.request({ event: 'add', waitForUnit: 1 });
  const sum: number = ctx.data.sum;
  const survey: Survey<Sum> = destination.survey<Sum>('add', [1, 2]);
  for await (const answer of survey) {
    const { unit: who }: SurveyAnswer<Sum> = answer;
    if (answer.error === undefined) console.log(who.id, answer.ctx.data.sum);
    else console.log(answer.error.message, answer.error.code);
    // @ts-expect-error: there may be none
    console.log(answer.ctx.data);
  }
  for await (const { unit: who, ctx: answer, error } of survey) {
    console.log(who.name, error ? error.message : answer.data.sum);
  }
  const stats: PeerStats = peer.stats();
  const unitStats: UnitStats | undefined = unit.stats();
  peer.on('auth_error', (error) => console.log(error.code));
  peer.on('handler_error', (error, { event, data }) => console.log(error, event.length, data));
  peer.on(PEER_RECONNECT_SUCCESS_EVENT, ({ address, count }) => console.log(address, count + 1));
  peer.on(PEER_RECONNECT_FAIL_EVENT, ({ error }) => console.log(error.code));
  console.log(port, buffered, sum, survey.size, stats.busy, unitStats?.waiting);
  const names: (typeof PEER_RECONNECT_FAIL_EVENT)[] = ['reconnect_fail'];
  refreshPeerDestinations.call(peer, unit);
  console.log(names);
  const same: Peer = peer.unref().ref();
  await same.listen({ port: 0, handshakeTimeout: 1_000, maxHandshakes: 10 });
  await same.listen({ port: 0, ssl: { certFile: 'tls.crt', keyFile: new URL('file:///tls.key'), caFile: 'ca', watch: true } });
  await same.connect('wss://localhost', { caFile: 'ca.crt', watch: 60_000 });
  await same.reloadTls();
  same.replaceTls({ cert: 'PEM', key: ['PEM'] });
  peer.on('tls_reload_success', ({ expires }) => console.log(expires?.getTime(), same.tlsExpires));
  peer.on('tls_reload_fail', ({ error }) => console.log(error.code));
  const removed: boolean = same.removePresharedKey('id');
  new Peer({ acquaintanceNetworks: ['public', '10.0.0.0/8'], acquaintancePorts: [443, '9000-9100'] });
  console.log(removed, stats.addressesIgnored);
  await peer.serve();
  await peer.serve({ drain: 1_000 });
  await peer.drain(1_000);
}

function balanced(destination: Destination): void {
  const first: Balance = ([{ unit }]) => unit;
  const idle: Balance = (candidates: Candidate[]) => candidates.find(({ waiting }) => waiting === 0)?.unit;
  const quick: Balance = (candidates) => {
    const [best] = candidates.sort((a, b) => a.answerTime - b.answerTime);
    if (best.answerTime < 1_000) return best.unit;
  };
  const { peer, name } = destination;
  new Peer({ balance: 'least-loaded' });
  peer.destination(name, { balance: idle, prefer: { zone: 'a' } });
  new Peer({ eject: true });
  const ejection: Ejection = { failures: 3, rejections: true, time: 1_000, most: 60_000 };
  peer.destination(name, { eject: ejection, maxInFlight: 100 }).request('e');
  const standings: Standing[] = destination.standings();
  for (const { unit, waiting, answerTime: takes, unanswered, rejected, ejected } of standings) {
    const left: number | undefined = ejected;
    console.log(unit.name, waiting + takes + unanswered + rejected, left);
  }
  const retry = new Retry({ attempts: 4, backoff: 10, longest: 500, budget: 0.2, hedge: { quantile: 0.95 } });
  peer.destination(name, { retry }).request({ event: 'e', retry: new Retry({ hedge: { after: 50 } }) });
  destination.request({ event: 'e', retry: false });
  console.log(retry.retried + retry.hedged + retry.refused);
  // @ts-expect-error: either, not both
  new Retry({ hedge: { after: 50, quantile: 0.95 } });
  // @ts-expect-error: streams are not made again
  destination.Readable({ event: 'e', retry });
  // @ts-expect-error: how many
  peer.destination(name, { eject: { failures: 'many' } });
  destination.send({ event: 'e', key: 'user 17', prefer: {} });
  destination.send({ event: 'e', key: Buffer.alloc(4), balance: quick });
  destination.Readable({ event: 'e', balance: first });
  const answerTime: number | null | undefined = peer.units[0].stats()?.answerTime;
  console.log(answerTime);
  // @ts-expect-error: there is no such balance
  peer.destination(name, { balance: 'fastest' });
  // @ts-expect-error: it is a unit
  peer.destination(name, { balance: (candidates) => candidates[0] });
  // @ts-expect-error: it is one at once
  peer.destination(name, { balance: async ([{ unit }]) => unit });
  // @ts-expect-error: values of tags are strings
  destination.send({ event: 'e', prefer: { zone: 5 } });
  // @ts-expect-error: a key is a string or bytes
  destination.send({ event: 'e', key: 5 });
}

async function governed(tokens: Map<string, Claims>): Promise<void> {
  const rule: PolicyRule = { who: { key: 'billing', address: ['10.0.0.0/8'] }, call: ['payments/*'] };
  const policy: Policy = {
    default: { call: 'deny', serve: 'allow' },
    rules: [
      rule,
      { who: { claim: { groups: ['ops', 'dev'] } }, call: [{ role: '*', event: 'restart', kinds: ['request'] }] },
      { who: 'any', deny: { serve: ['payments'] }, comment: 'for people' },
    ],
  };
  const authenticate: Authenticate = async ({ headers, path, address, certificate, request }: UpgradeRequest) => {
    const shown: Certificate | null = certificate;
    console.log(path.length, address?.length, shown?.names.join(), request.socket.remoteAddress);
    return tokens.get(headers.authorization ?? '') ?? false;
  };
  const peer = new Peer({
    policy,
    authenticate,
    origins: ['https://app.example'],
    identityHeaders: ['x-request-id'],
    channelBinding: 'require',
    peerKey: Buffer.alloc(32),
  });
  new Peer({ authenticate: () => ({ sub: 'a', level: 5 }) });
  new Peer({ policy: '{}', authenticate: () => false });
  peer.setPolicy(policy);
  peer.setPolicy('{ "default": "allow" }');
  peer.setPolicy(null);
  const watching: Promise<void> = peer.watchPolicy('policy.json');
  await watching;
  peer.on('denied', (unit, denial) => {
    const { what, role, event, count }: Denial = denial;
    const identity: Identity = unit.identity;
    const sub: string | undefined = identity.claims.sub;
    console.log(what === 'serve', role + event, count + 1, identity.key, sub, identity.headers[0]?.[1]);
  });
  peer.on('policy_loaded', (path) => console.log(path.length));
  peer.on('policy_failed', (error, path) => console.log(error.code, error.hint, path.length));
  const { ws } = await peer.connect('ws://localhost', { origin: 'https://app.example' });
  console.log(ws.identity?.dialed, peer.units[0].stats()?.denied);
  // @ts-expect-error: an identity cannot be changed
  peer.units[0].identity.key = 'b';
  // @ts-expect-error: there is no such verdict
  peer.setPolicy({ default: 'perhaps' });
  // @ts-expect-error: null stands for none
  peer.setPolicy(undefined);
  // @ts-expect-error: there is no such kind
  peer.setPolicy({ rules: [{ who: 'any', call: [{ role: 'a', kinds: ['survey'] }] }] });
  // @ts-expect-error: there is no such mode
  new Peer({ channelBinding: 'always' });
  // @ts-expect-error: it returns claims
  new Peer({ authenticate: () => true });
  // @ts-expect-error: it returns claims
  new Peer({ authenticate: async () => {} });
  // @ts-expect-error: several
  new Peer({ origins: 'https://app.example' });
}

function tell(error: unknown): ErrorCode | undefined {
  if (!(error instanceof RoletalkError)) return undefined;
  const known: boolean = errorCodes.includes(error.code);
  if (error.code === 'TIMEOUT' || !known) return 'TIMEOUT';
  return error.code;
}

export { adding, additions, governed, tell };
