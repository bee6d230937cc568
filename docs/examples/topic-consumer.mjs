// A store of one's own that reads Abide's topic and acknowledges over HTTP (docs/consume-the-topic.md). It uses nothing of
// Abide's code: kafkajs and avsc read, Node's crypto opens the envelope.
//
//   npm install kafkajs avsc
//   BROKERS=127.0.0.1:9092 REGISTRY=http://127.0.0.1:8081/apis/ccompat/v7 API=http://127.0.0.1:8080 KEY=abide_live_… \
//     STORE=ours FILE=suppressions.json node topic-consumer.mjs
//
// It keeps its suppressions in a JSON file. Put your database where load() and save() are.
import { Buffer } from 'node:buffer';
import { createDecipheriv, randomUUID } from 'node:crypto';
import { readFileSync, renameSync, writeFileSync } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';
import avro from 'avsc';
import { Kafka, logLevel } from 'kafkajs';

const { BROKERS = '127.0.0.1:9092', REGISTRY, API, KEY, STORE, FILE = 'suppressions.json' } = process.env;
const TOPIC = 'abide.public.decisions';

// ---- the store: `kind:address` → { version, scopes: scope → true (suppressed) or false (lifted by the person) }, and
// `incarnation`, an id that is made with the file: by it the ledger finds out that the file was lost.

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
  if (!rows.has('incarnation')) rows.set('incarnation', randomUUID());
  writeFileSync(`${FILE}.new`, JSON.stringify(Object.fromEntries(rows)), { mode: 0o600, flush: true });
  renameSync(`${FILE}.new`, FILE);
}

/** Never older over newer; an equal version suppresses again and lifts nothing. */
function apply(rows, key, { version, suppressed, granted }) {
  const row = rows.get(key) ?? { version: 0, scopes: {} };
  if (version < row.version) return;
  const scopes = { ...row.scopes };
  for (const [scope, grant] of Object.entries(granted))
    if (row.version < grant.version) scopes[scope] = false;
  for (const scope of Object.keys(suppressed)) scopes[scope] = true;
  rows.set(key, { version, scopes });
}

// ---- the API

async function call(method, path, body) {
  const answer = await fetch(new URL(path, API), {
    method,
    headers: { authorization: `Bearer ${KEY}`, 'content-type': 'application/json' },
    body: body && JSON.stringify(body),
  });
  if (!answer.ok) throw new Error(`${method} ${path} answered ${answer.status}`);
  return answer.json();
}

const transportKeys = new Map();
async function transportKey(id) {
  if (!transportKeys.has(id)) {
    const { key } = await call('GET', `/v1/transport-keys/${id}`);
    transportKeys.set(id, Buffer.from(key, 'base64url'));
  }
  return transportKeys.get(id);
}

/** 0x01, key id (4), nonce (12), ciphertext, tag (16); AES-256-GCM, bound to the subject and its kind. */
export function unseal(sealed, secret, subjectId, kind) {
  if (sealed[0] !== 1) throw new Error('an envelope of another form');
  const decipher = createDecipheriv('aes-256-gcm', secret, sealed.subarray(5, 17));
  decipher.setAAD(Buffer.from(`${subjectId}\0${kind}`));
  decipher.setAuthTag(sealed.subarray(-16));
  return Buffer.concat([decipher.update(sealed.subarray(17, -16)), decipher.final()]).toString();
}

const incarnation = `${Date.now()}`;
let generation;
let paused = false;
let source = 'unknown';

/** Acknowledgements, at most 1,000 a call; none at all is a sign of life, and says which file it is: null, there is none. */
export async function report(acknowledgements, ofGeneration = generation) {
  const isSign = acknowledgements.length === 0;
  const worker = {
    id: `${STORE}-consumer`,
    incarnation,
    source: { kind: 'kafka', status: source, parked: 0 },
  };
  const answer = await call('POST', '/v1/acknowledgements', {
    store: STORE,
    generation: ofGeneration,
    worker,
    observed: isSign ? { incarnation: load().get('incarnation') ?? null } : undefined,
    acknowledgements,
  });
  for (const { seq, code } of answer.rejected) console.error(`acknowledgement of ${seq} rejected: ${code}`);
}

/** The decisions whose address opens, each with its row's key. One that does not open holds up none of the others. */
async function openAll(decisions) {
  const opened = [];
  for (const decision of decisions) {
    const { seq, sealed, transport_key_id: keyId, subject_id: subjectId, kind } = decision;
    try {
      const bytes = Buffer.from(sealed, 'base64url');
      opened.push([decision, `${kind}:${unseal(bytes, await transportKey(keyId), subjectId, kind)}`]);
    } catch (error) {
      // It stays outstanding, and the ledger gives it out.
      console.error(`the address of ${seq} does not open: ${error.message}`);
    }
  }
  return opened;
}

const acknowledgement = ({ seq, version, subject_id, asked }, carriedBy, result) => {
  return { seq, version, subject_id, asked, carried_by: carriedBy, attempts: 1, ...result };
};
const ERASED = { outcome: 'refused', code: 'ADDRESS_ERASED', held: { version: null, suppressed: [] } };

/** Writes decisions, reads each back, and says what is held. */
async function carry(decisions, carriedBy) {
  const opened = await openAll(decisions);
  // `take` and `catchUp` come here at the same time: what is compared must not change before it is written. So nothing is awaited
  // from load() to save(). In a database it is one transaction, with the rows locked.
  const rows = load();
  // What is read now is of this generation, also if another begins before it is said.
  const ofGeneration = generation;
  for (const [decision, key] of opened) apply(rows, key, decision);
  save(rows);
  const held = load();
  const acknowledgements = opened.map(([decision, key]) => {
    const { version, scopes } = held.get(key);
    const suppressed = Object.keys(scopes).filter((scope) => scopes[scope]);
    return acknowledgement(decision, carriedBy, { outcome: 'verified', held: { version, suppressed } });
  });
  for (let from = 0; from < acknowledgements.length; from += 1_000)
    await report(acknowledgements.slice(from, from + 1_000), ofGeneration);
}

// ---- the ledger makes it sure: what the topic does not bring, or brought before there was a store

export async function catchUp() {
  let after;
  do {
    const page = await call(
      'GET',
      `/v1/stores/${STORE}/outstanding?limit=1000&worker=${STORE}-consumer${after ? `&after=${after}` : ''}`,
    );
    const isFirst = generation === undefined;
    generation = page.generation;
    paused = page.paused === true;
    // The first sign of life takes the store's lease, and with it what is outstanding.
    if (isFirst) await report([]);
    const {
      erased = [],
      live = [],
      backfill = [],
    } = Object.groupBy(page.decisions, ({ sealed, lane }) => (sealed === null ? 'erased' : lane));
    // Who they are can no longer be known: the ledger counts them as absent here.
    if (erased.length > 0) await report(erased.map((one) => acknowledgement(one, 'catch_up', ERASED)));
    if (live.length > 0) await carry(live, 'catch_up');
    if (backfill.length > 0) await carry(backfill, 'backfill');
    after = page.next;
  } while (after);
}

// ---- the topic makes it fast

/**
 * While the store is paused nothing is written: the ledger gives all of it out once it is resumed. Nor is anything lifted on the
 * topic's word, since others may be able to write to it: the ledger gives that out within a second.
 */
export async function take(decisions) {
  const lifting = ({ granted }) => Object.keys(granted).length > 0;
  if (!paused)
    await carry(
      decisions.filter((decision) => !lifting(decision)),
      'stream',
    );
}

const schemas = new Map();
async function schemaOf(id) {
  if (!schemas.has(id)) {
    const answer = await fetch(`${REGISTRY}/schemas/ids/${id}`);
    if (!answer.ok) throw new Error(`the registry answered ${answer.status}`);
    schemas.set(id, avro.Type.forSchema(JSON.parse((await answer.json()).schema)));
  }
  return schemas.get(id);
}

/** Byte 0, the schema's id (4), the Avro body. By name, so that a field that comes later does no harm. */
async function readRecord(value) {
  const row = (await schemaOf(value.readInt32BE(1))).fromBuffer(value.subarray(5));
  const [suppressed, granted] = [JSON.parse(row.suppressed), JSON.parse(row.granted)];
  if (!(row.seq > 0 && row.version > 0 && suppressed && granted))
    throw new Error('it lacks what it must have');
  return { ...row, suppressed, granted };
}

async function main() {
  const kafka = new Kafka({ clientId: STORE, brokers: BROKERS.split(','), logLevel: logLevel.ERROR });
  const consumer = kafka.consumer({ groupId: STORE });
  let stopped = false;
  let running = Promise.resolve();
  const stop = async () => {
    stopped = true;
    await consumer.disconnect();
    await running;
    process.exit(0);
  };
  process.once('SIGTERM', stop);
  process.once('SIGINT', stop);

  await catchUp();
  consumer.on(consumer.events.CRASH, () => {
    source = 'down';
  });
  await consumer.connect();
  await consumer.subscribe({ topic: TOPIC, fromBeginning: true });
  await consumer.run({
    // An offset is committed after the acknowledgement: in between, a decision is only read again.
    autoCommit: false,
    eachBatch: async ({ batch, heartbeat }) => {
      const decisions = [];
      for (const { value, offset } of batch.messages) {
        try {
          decisions.push(await readRecord(value));
        } catch (error) {
          // The ledger gives it out as outstanding.
          console.error(`record ${batch.partition}:${offset} cannot be read: ${error.message}`);
        }
      }
      await take(decisions);
      const offset = String(BigInt(batch.lastOffset()) + 1n);
      await consumer.commitOffsets([{ topic: batch.topic, partition: batch.partition, offset }]);
      await heartbeat();
      source = 'ok';
    },
  });
  console.log('consuming');
  // A sign of life at least every two seconds, and what the topic lost.
  running = (async () => {
    while (!stopped) {
      await catchUp().catch((error) => console.error(error.message));
      await report([]).catch((error) => console.error(error.message));
      await delay(1_000);
    }
  })();
}

if (process.argv[1] === import.meta.filename) await main();
