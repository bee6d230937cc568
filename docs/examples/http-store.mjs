// A store that speaks Abide's HTTP contract (docs/http-connector.md). No dependencies:
//
//   SECRET=whsec_… PORT=8090 FILE=suppressions.json node docs/examples/http-store.mjs
//
// It keeps its suppressions in a JSON file. Put your database where load() and save() are; compare and write in one
// transaction.
import { Buffer } from 'node:buffer';
import { createHmac, timingSafeEqual } from 'node:crypto';
import { readFileSync, renameSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';

const { SECRET, PORT = '8090', FILE = 'suppressions.json' } = process.env;
if (!SECRET) throw new Error('Set SECRET to the secret of this store in abide.yaml.');
const secret = SECRET.startsWith('whsec_') ? Buffer.from(SECRET.slice(6), 'base64') : Buffer.from(SECRET);

/** `kind:key` → { version, scopes: scope → true (suppressed) or false (lifted by the person) } */
function load() {
  try {
    return new Map(Object.entries(JSON.parse(readFileSync(FILE, 'utf8'))));
  } catch (error) {
    if (error.code === 'ENOENT') return new Map();
    throw error;
  }
}

/** Plain addresses: for nobody but this user. */
function save(rows) {
  writeFileSync(`${FILE}.new`, JSON.stringify(Object.fromEntries(rows)), { mode: 0o600, flush: true });
  renameSync(`${FILE}.new`, FILE);
}

/** Standard Webhooks 1.0: HMAC-SHA-256 over `id.timestamp.payload`, at most five minutes old. */
function isSigned(headers, payload) {
  const [id, timestamp, signatures] = ['id', 'timestamp', 'signature'].map(
    (name) => headers[`webhook-${name}`] ?? '',
  );
  if (!(Math.abs(Date.now() / 1000 - Number(timestamp)) <= 300)) return false;
  const expected = createHmac('sha256', secret).update(`${id}.${timestamp}.${payload}`).digest();
  return signatures.split(' ').some((one) => {
    const given = Buffer.from(one.replace(/^v1,/, ''), 'base64');
    return one.startsWith('v1,') && given.length === expected.length && timingSafeEqual(given, expected);
  });
}

/** One item: never older over newer; an equal version suppresses again and lifts nothing. */
function apply(rows, { version, kind, key, suppressed, granted }) {
  if (key === '') return { kind: 'refused', code: 'KEY_EMPTY' };
  const row = rows.get(`${kind}:${key}`) ?? { version: null, scopes: {} };
  const held = row.version ?? 0;
  if (version < held) return { kind: 'already_newer' };
  const scopes = { ...row.scopes };
  for (const [scope, grant] of Object.entries(granted)) if (held < grant.version) scopes[scope] = false;
  for (const scope of Object.keys(suppressed)) scopes[scope] = true;
  rows.set(`${kind}:${key}`, { version, scopes });
  return { kind: 'applied' };
}

function held(rows, { kind, key }) {
  const row = rows.get(`${kind}:${key}`);
  return row === undefined
    ? null
    : { version: row.version, suppressed: Object.keys(row.scopes).filter((scope) => row.scopes[scope]) };
}

async function answer(request) {
  if (request.method === 'GET') {
    const keys = request.headers['abide-keys'] ?? '';
    if (!isSigned(request.headers, keys)) return [401, { error: 'bad signature' }];
    const rows = load();
    return [200, { held: JSON.parse(Buffer.from(keys, 'base64url')).map((key) => held(rows, key)) }];
  }
  if (request.method !== 'POST') return [405, { error: 'POST or GET' }];
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  const body = Buffer.concat(chunks).toString();
  if (!isSigned(request.headers, body)) return [401, { error: 'bad signature' }];
  const rows = load();
  const outcomes = JSON.parse(body).items.map((item) => apply(rows, item));
  save(rows);
  return [200, { outcomes }];
}

const server = createServer((request, response) => {
  const send = ([status, body]) =>
    response
      .writeHead(status, { 'content-type': 'application/json', 'cache-control': 'no-store' })
      .end(JSON.stringify(body));
  answer(request).then(send, () => send([500, { error: 'see the log of the store' }]));
});
server.listen(Number(PORT), '127.0.0.1', () => {
  console.log(`listening on http://127.0.0.1:${server.address().port}`);
});
