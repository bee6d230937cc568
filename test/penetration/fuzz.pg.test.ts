// Ten thousand requests made from the OpenAPI documents of every version: good ones, and good ones with one fault. There must never
// be a 5xx, never a 2xx for a request that is wrong by its document, and never a refusal for the form of one that is right by it;
// and every answer must be one that stands there. Every run has the same ten thousand, so that a red one repeats; ABIDE_FUZZ_SEED=N
// makes others.
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { Ajv2020 } from 'ajv/dist/2020.js';
import fc from 'fast-check';
import { toOpenApi } from '../../api/public/openapi.ts';
import type { OpenApi } from '../../api/public/openapi.ts';
import { servedVersions } from '../../api/version.ts';
import { VERSIONS } from '../../api/versions.ts';
import { makeToken } from '../../ledger/api-keys.ts';
import { ADMINISTRATOR_SCOPES } from '../../ledger/contract/api-keys.ts';
import { serveToClients } from '../api/serving.ts';
import type { ServedToClients } from '../api/serving.ts';
import { answered } from '../harness/http.ts';
import type { Answer } from '../harness/http.ts';
import { goodCalls } from './good-calls.ts';
import type { Call } from './good-calls.ts';
import { singleFaults, write } from './single-faults.ts';
import type { Sent } from './single-faults.ts';

const REQUESTS = 10_000;
const AT_ONCE = 4;
const SEED = Number(process.env['ABIDE_FUZZ_SEED'] ?? 7);
const FAILURES_SHOWN = 10;

type Credential = 'right' | 'none' | 'unknown' | 'lesser';
type Case = {
  readonly call: Call;
  readonly sent: Sent;
  readonly credential: Credential;
  readonly fault: string | undefined;
  /** What somebody else's validator must say of the body; undefined: it is not asked. */
  readonly isValid: boolean | undefined;
};

let api: ServedToClients;
let keys: Record<'client' | 'worker' | 'lesser' | 'unknown', string>;
beforeAll(async () => {
  api = await serveToClients({ declared: { topics: { email: ['newsletter'] }, purposes: ['analytics'] } });
  await api.t.register({ name: 'crm' }, { name: 'mail' });
  const { token: client } = await api.makeKey({ client: 'fuzz', scopes: ADMINISTRATOR_SCOPES });
  const { token: lesser } = await api.makeKey({ client: 'fuzz', scopes: [] });
  keys = { client, lesser, worker: await api.workerKey('crm'), unknown: makeToken() };
});
afterAll(async () => {
  await api[Symbol.asyncDispose]();
});

const documents = servedVersions(VERSIONS).map((name) => toOpenApi(name, VERSIONS));

/** By operation: whether a body is as its schema says, judged by a validator that is not ours. */
const validators = new Map(
  documents.flatMap((document) => {
    const ajv = new Ajv2020({ strict: false });
    ajv.addFormat('uuid', /^[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i);
    ajv.addFormat('date-time', isRfc3339);
    ajv.addSchema(document, 'document');
    return Object.values(document.paths)
      .flatMap((methods) => Object.values(methods))
      .flatMap(({ requestBody }) => {
        const schema = requestBody?.content['application/json']?.schema;
        if (schema === undefined) return [];
        const here = JSON.parse(JSON.stringify(schema).replaceAll('"#/', '"document#/')) as object;
        return [[requestBody!, ajv.compile(here)] as const];
      });
  }),
);

/** Invalid dates make Date run over into the next month. */
function isRfc3339(text: string): boolean {
  const [, day] = /^\d{4}-\d\d-(\d\d)T\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:\d\d)$/i.exec(text) ?? [];
  const local = new Date(`${text.slice(0, 19)}Z`);
  return day !== undefined && local.getUTCDate() === Number(day);
}

/** Half of them good, the others with one fault. */
const casesOf = (document: OpenApi): fc.Arbitrary<Case> =>
  fc
    .tuple(goodCalls(document), fc.nat(), fc.integer({ min: 0, max: 19 }))
    .map(([call, which, roll]): Case => {
      const right = {
        call,
        sent: write(call),
        credential: 'right',
        fault: undefined,
        isValid: true,
      } as const;
      if (roll < 10) return right;
      if (roll === 10) {
        const credential = (['none', 'unknown', 'lesser'] as const)[which % 3]!;
        return { ...right, credential, fault: `with a credential: ${credential}` };
      }
      const faults = [...singleFaults(document, call)];
      const fault = faults[which % faults.length];
      if (fault === undefined) return right;
      const isValid = fault.bySchema === true ? false : undefined;
      return { ...right, sent: fault.sent(), fault: fault.what, isValid };
    });

const keyFor = ({ call, credential }: Case): string | undefined =>
  credential === 'none'
    ? undefined
    : keys[
        credential === 'right' ? (call.operation.tags.includes('Workers') ? 'worker' : 'client') : credential
      ];

/** What is wrong with an answer; undefined: nothing. */
function complaint(
  { call, fault, sent: { target } }: Case,
  { status, json, headers }: Answer,
): string | undefined {
  const isProblem = headers['content-type']?.startsWith('application/problem+json') === true;
  // The lag answers 503 with itself if it was asked to.
  if (status >= 500 && (isProblem || call.query['fail_on'] === undefined)) return 'a failure of ours';
  // A bad item of checks is answered with "do not send".
  const isOfBadItem =
    status === 200 &&
    call.operation.operationId === 'check' &&
    json.items.some((one: { reason: string }) => one.reason === 'invalid_item');
  if (fault === undefined) {
    const isForm =
      [400, 401, 403, 405, 406, 408, 411, 413, 415, 431].includes(status) ||
      (status === 422 && json.code === 'invalid-value');
    if (isForm) return 'refused, and nothing is wrong with it';
    return isOfBadItem ? 'an item is refused, and nothing is wrong with it' : undefined;
  }
  // Workers and operators are told in v1 what they were always told.
  const isOfTheLibrary = (json?.errors as { detail: string }[] | undefined)?.some(({ detail }) =>
    /^(?:Too |Invalid |Unrecognized |Expected )/.test(detail),
  );
  if (isOfTheLibrary === true && target.startsWith('/v2/')) return 'in the words of a library';
  return status >= 400 || isOfBadItem ? undefined : 'taken';
}

test(`${REQUESTS} generated requests`, async () => {
  process.stdout.write(`fuzz: ABIDE_FUZZ_SEED=${SEED}\n`);
  const cases = fc.sample(fc.oneof(...documents.map(casesOf)), { numRuns: REQUESTS, seed: SEED });
  /** One failure of each kind. */
  const failures = new Map<string, string>();
  const statuses = new Map<string, number>();
  let next = 0;
  const work = async (): Promise<void> => {
    for (let n = next++; n < cases.length && failures.size < FAILURES_SHOWN; n = next++) {
      const one = cases[n]!;
      const { method, target, headers, body } = one.sent;
      const validate = validators.get(one.call.operation.requestBody!);
      if (one.isValid !== undefined && validate !== undefined)
        expect([body, validate(JSON.parse(body!))]).toEqual([body, one.isValid]);
      let why: string | undefined;
      let answer: Answer | undefined;
      try {
        answer = await answered(() => api.send(method, target, { key: keyFor(one), headers, body }));
        why = complaint(one, answer);
      } catch (error) {
        why = (error as Error).message;
      }
      const kind = `${one.fault === undefined ? 'good' : 'faulty'} ${String(answer?.status)}`;
      statuses.set(kind, (statuses.get(kind) ?? 0) + 1);
      if (why !== undefined)
        failures.set(
          JSON.stringify([one.call.operation.operationId, why, answer?.json?.errors]),
          [
            `request ${n}, ${one.fault ?? 'good'}: ${why}`,
            `${method} ${target} ${JSON.stringify(headers)}`,
            body?.slice(0, 2_000) ?? '',
            `${answer?.status ?? ''} ${answer?.text.slice(0, 1_000) ?? ''}`,
          ].join('\n'),
        );
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, work));
  expect([...failures.values()].join('\n\n')).toBe('');
  // What was meant was sent: in the good half many ask for an id that nobody has, and a fifth of all is answered with a 2xx.
  const share = (kind: RegExp): number =>
    [...statuses].reduce((sum, [name, count]) => sum + (kind.test(name) ? count : 0), 0) / REQUESTS;
  expect(share(/^good 2/)).toBeGreaterThan(0.2);
  expect(share(/^faulty 4/)).toBeGreaterThan(0.35);
}, 300_000);
