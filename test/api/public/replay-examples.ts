// Every example of a version's document, sent to a server on a real ledger.
import { expect } from '@jest/globals';
import { fetch } from 'undici';
import type { Example, Operation } from '../../../api/operation.ts';
import { documentPath, toOpenApi } from '../../../api/public/openapi.ts';
import { operationsOf, VERSIONS } from '../../../api/versions.ts';
import { ADMINISTRATOR_SCOPES } from '../../../ledger/contract/api-keys.ts';
import type { OpenLedger } from '../../../ledger/open-ledger.ts';
import { createSend } from '../../harness/http.ts';
import { outstandingOf, report, verified } from '../../harness/ledger.ts';
import { serveLedger } from '../../harness/served-ledger.ts';
import { createFaultsOf } from './faults-of.ts';

type Replay = {
  /** Replays all examples of an operation, or those that are named. */
  replay(id: string, ...names: string[]): Promise<void>;
  /** What stands in the examples → what this ledger has in its place. Ids are learned from the answers. */
  readonly real: Map<string, string>;
  readonly ledger: OpenLedger;
};

export type TellExamples = (of: Replay) => Promise<void>;

/** In the order of their declaration, while a worker carries whatever is due. */
const inTheirOrder =
  (operations: readonly Operation[]): TellExamples =>
  async ({ replay, ledger }) => {
    for (const { id, examples } of operations)
      for (const name of Object.keys(examples)) {
        await replay(id, name);
        const due = await outstandingOf(ledger, 'crm');
        await ledger.acknowledge('crm', report(due.map((decision) => verified(decision))));
      }
  };

/** Replays the examples of a version, each once, in the order that `tell` says; absent: in the order of their declaration. */
export async function replayExamples(version: string, tell?: TellExamples): Promise<void> {
  const operations = operationsOf(version);
  const faultsOf = createFaultsOf(toOpenApi(version, VERSIONS));
  await using served = await serveLedger();
  await served.t.register({ name: 'crm' });
  const fields = { store: undefined, expiresAt: undefined, caller: undefined };
  const { token: clientKey } = await served.t.ledger.createKey({
    client: 'shop',
    scopes: ADMINISTRATOR_SCOPES,
    ...fields,
  });
  const workerKey = await served.workerKey('crm');
  const send = createSend(served.url);
  const real = new Map<string, string>();
  const told: string[] = [];

  const withReal = <T>(value: T): T => {
    let text = JSON.stringify(value);
    for (const [written, here] of real) text = text.replaceAll(written, here);
    return JSON.parse(text) as T;
  };

  async function replayOne(operation: Operation, example: Example): Promise<void> {
    const { path: params = {}, query = {}, headers = {}, body } = withReal({ ...example, answer: undefined });
    const path = operation.path.replaceAll(/:(\w+)/g, (_, name: string) => encodeURIComponent(params[name]!));
    const key = operation.tag === 'Workers' ? workerKey : clientKey;
    const url = `${path}?${new URLSearchParams(query).toString()}`;
    if (example.answer === undefined) return await listen(new URL(url, served.url), key, example.status);

    const answer = await send(operation.method === 'get' ? 'GET' : 'POST', url, { key, headers, body });
    expect(`${operation.id} ${answer.status} ${answer.status === example.status ? '' : answer.text}`).toBe(
      `${operation.id} ${example.status} `,
    );
    const type = answer.headers['content-type']!.split(';')[0]!;
    const place = [
      'paths',
      documentPath(operation.path),
      operation.method,
      'responses',
      String(answer.status),
    ];
    expect(faultsOf([...place, 'content', type, 'schema'], answer.json)).toEqual([]);
    // What is wrong with a request must be said in exactly these words.
    if (type.startsWith('application/problem'))
      expect(answer.json).toEqual({ ...example.answer, request_id: answer.headers['x-request-id'] });
    learnIds(example.answer, answer.json, real);
  }

  await (tell ?? inTheirOrder(operations))({
    real,
    ledger: served.t.ledger,
    replay: async (id, ...names) => {
      const operation = operations.find((one) => one.id === id)!;
      for (const name of names.length > 0 ? names : Object.keys(operation.examples)) {
        told.push(`${id} ${name}`);
        await replayOne(operation, operation.examples[name]!);
      }
    },
  });

  const all = operations.flatMap(({ id, examples }) => Object.keys(examples).map((name) => `${id} ${name}`));
  expect(told.sort()).toEqual(all.sort());
}

const ID = /^[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;

/** The first answer that has an id where the example has one gives the id used here. */
function learnIds(written: unknown, here: unknown, real: Map<string, string>): void {
  if (typeof written === 'string' && typeof here === 'string') {
    if (ID.test(written) && ID.test(here) && !real.has(written)) real.set(written, here);
  } else if (typeof written === 'object' && written !== null && typeof here === 'object' && here !== null) {
    for (const [name, one] of Object.entries(written))
      learnIds(one, (here as Record<string, unknown>)[name], real);
  }
}

/** The answer has no end: its first event is enough. */
async function listen(url: URL, key: string, status: number): Promise<void> {
  const stop = new AbortController();
  const answer = await fetch(url, { headers: { authorization: `Bearer ${key}` }, signal: stop.signal });
  expect([answer.status, answer.headers.get('content-type')]).toEqual([
    status,
    'text/event-stream; charset=utf-8',
  ]);
  let text = '';
  for await (const chunk of answer.body!) {
    text += Buffer.from(chunk as Uint8Array).toString();
    if (/^event: \w+\ndata: \{.*\}$/m.test(text)) break;
  }
  stop.abort();
}
