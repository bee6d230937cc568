// Every example of the document, sent to the server on a real ledger in an order that makes a story.
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { fetch } from 'undici';
import type { Example, Operation } from '../../../api/operation.ts';
import { documentPath, toOpenApi } from '../../../api/public/openapi.ts';
import { SEQ, SUBJECT_ID } from '../../../api/v1/acknowledgements.ts';
import { OPT_OUT_ID } from '../../../api/v1/opt-outs.ts';
import { operationsOf } from '../../../api/versions.ts';
import { outstandingOf, report, verified } from '../../harness/ledger.ts';
import { createSend } from '../../harness/http.ts';
import { serveLedger } from '../../harness/served-ledger.ts';
import type { ServedLedger } from '../../harness/served-ledger.ts';
import { ADMINISTRATOR_SCOPES } from '../../../ledger/api-keys.ts';
import { createFaultsOf } from './faults-of.ts';

const operations = operationsOf('v1');
const faultsOf = createFaultsOf(toOpenApi(operations));

let served: ServedLedger;
let clientKey = '';
let workerKey = '';
beforeAll(async () => {
  served = await serveLedger();
  await served.t.register({ name: 'crm' });
  const fields = { store: undefined, expiresAt: undefined, caller: undefined };
  clientKey = (await served.t.ledger.createKey({ client: 'shop', scopes: ADMINISTRATOR_SCOPES, ...fields }))
    .token;
  workerKey = await served.workerKey('crm');
});
afterAll(async () => {
  await served[Symbol.asyncDispose]();
});

/** What stands in the examples → what this ledger has in its place. */
const real = new Map<string, string>();
const withReal = <T>(value: T): T => {
  let text = JSON.stringify(value);
  for (const [written, here] of real) text = text.replaceAll(written, here);
  return JSON.parse(text) as T;
};

const told: string[] = [];

async function replay(id: string, ...names: string[]): Promise<void> {
  const operation = operations.find((one) => one.id === id)!;
  const chosen = names.length > 0 ? names : Object.keys(operation.examples);
  for (const name of chosen) {
    told.push(`${id} ${name}`);
    await send(operation, operation.examples[name]!);
  }
}

async function send(operation: Operation, example: Example): Promise<void> {
  const { path: params = {}, query = {}, headers = {}, body } = withReal({ ...example, answer: undefined });
  const path = operation.path.replaceAll(/:(\w+)/g, (_, name: string) => encodeURIComponent(params[name]!));
  const key = operation.tag === 'Workers' ? workerKey : clientKey;
  const url = `${path}?${new URLSearchParams(query).toString()}`;
  if (example.answer === undefined) return await listen(url, key, example.status);

  const answer = await createSend(served.url)(operation.method === 'get' ? 'GET' : 'POST', url, {
    key,
    headers,
    body,
  });
  expect(`${operation.id} ${answer.status} ${answer.status === example.status ? '' : answer.text}`).toBe(
    `${operation.id} ${example.status} `,
  );
  const type = answer.headers['content-type']!.split(';')[0]!;
  const place = ['paths', documentPath(operation.path), operation.method, 'responses', String(answer.status)];
  expect(faultsOf([...place, 'content', type, 'schema'], answer.json)).toEqual([]);
  // What is wrong with a request is said in the very words.
  if (type.startsWith('application/problem'))
    expect(answer.json).toEqual({ ...example.answer!, request_id: answer.headers['x-request-id'] });
  if (operation.id === 'createOptOut' && !real.has(OPT_OUT_ID)) real.set(OPT_OUT_ID, String(answer.json.id));
}

/** An answer without end: its first event is enough. */
async function listen(url: string, key: string, status: number): Promise<void> {
  const stop = new AbortController();
  const answer = await fetch(new URL(url, served.url), {
    headers: { authorization: `Bearer ${key}` },
    signal: stop.signal,
  });
  expect([answer.status, answer.headers.get('content-type')]).toEqual([
    status,
    'text/event-stream; charset=utf-8',
  ]);
  let text = '';
  for await (const chunk of answer.body!) {
    text += Buffer.from(chunk as Uint8Array).toString();
    if (/^event: lag\ndata: \{.*\}$/m.test(text)) break;
  }
  stop.abort();
}

test('every example is answered as it stands there', async () => {
  const { ledger } = served.t;
  // Nobody has heard of a worker yet.
  await replay('getPropagationLag', 'failing');
  await replay('createOptOut');
  const [decision, other] = await outstandingOf(ledger, 'crm');
  real.set(SUBJECT_ID, decision!.subjectId).set(String(SEQ), String(decision!.seq));
  await replay('listOutstanding');
  await replay('getNewestDecision');
  await replay('getTransportKey');
  await replay('acknowledge');
  await replay('getPropagationLag', 'now');
  await replay('followPropagationLag');
  await replay('getCanary');
  await replay('getPropagation');
  await replay('getOptOut');
  await replay('listOptOuts');
  await replay('lookUpSubject');
  await replay('check');
  await replay('getGate');

  await replay('beginReconciliation');
  await replay('listReconciliations');
  await replay('getReconciliationPage');
  await replay('reportReconciliationPage');

  const refused = verified(other!, { outcome: 'refused', code: 'TOO_LONG' });
  await ledger.acknowledge('crm', report([refused]));
  real.set(String(SEQ), String(other!.seq));
  await replay('listQuarantine');
  await replay('getQuarantined');
  await replay('retryQuarantined');

  const all = operations.flatMap(({ id, examples }) => Object.keys(examples).map((name) => `${id} ${name}`));
  expect(told.sort()).toEqual(all.sort());
});
