// What a compiler tells users of the client. `npm run types` reads this file; each `@ts-expect-error` fails there as soon as the
// line below it compiles.
import { createReadStream } from 'node:fs';
import { expect, test } from '@jest/globals';
import type { Abide, AbideProblem, AnswerOf, CheckItem, OptOutRequest, RequestOf, Route } from 'abide/client';
import { createAbide } from 'abide/client';

const email = { identifiers: [{ email: 'ada@example.com' }], scopes: ['email'] };

/** Never called. */
export const uses = (abide: Abide, problem: AbideProblem): unknown[] => [
  abide.optOuts.create(email),
  abide.optOuts.create({ ...email, reason: 'complaint', regimes: ['gdpr'] }, { idempotencyKey: 'one' }),
  // @ts-expect-error -- v1's name: it would be refused
  abide.optOuts.create({ subject: { email: 'ada@example.com' }, scopes: ['email'] }),
  // @ts-expect-error -- a misspelt member
  abide.optOuts.create({ ...email, scope: ['email'] }),
  // @ts-expect-error -- nobody is opted out of nothing by accident
  abide.optOuts.create({ identifiers: [{ email: 'ada@example.com' }] }),
  // @ts-expect-error -- there is no such reason
  abide.optOuts.create({ ...email, reason: 'bored' }),
  // @ts-expect-error -- an identifier has one of four names
  abide.subjects.lookup({ mail: 'ada@example.com' }),
  // @ts-expect-error -- a grant has evidence
  abide.grants.create({
    identifier: { email: 'a@example.com' },
    scopes: ['email'],
    granted_at: '2026-01-01',
  }),
  // @ts-expect-error -- v1's name of a scope
  abide.checks.ask([{ identifiers: [{ email: 'ada@example.com' }], channel: 'email' }]),
  abide.optOuts.list({ state: 'pending', limit: 100 }),
  // @ts-expect-error -- there is no such state
  abide.optOuts.list({ state: 'done' }),
  // @ts-expect-error -- the client turns the pages
  abide.optOuts.list({ cursor: 'x' }),
  // @ts-expect-error -- a key or a token
  createAbide({ url: 'https://abide.example.com' }),
  abide.call('GET /v1/stores/{name}/quarantine', { path: { name: 'crm' }, query: { kind: 'absent' } }),
  // @ts-expect-error -- there is no such call
  abide.call('DELETE /v2/opt-outs/{id}', { path: { id: 'x' } }),
  // @ts-expect-error -- its body is a file
  abide.call('POST /v2/imports'),
  abide.imports.create(new Blob(), { format: 'csv', scopes: ['email'], reason: 'legal', dryRun: true }),
  abide.imports.create(() => createReadStream('opt-outs.csv'), { format: 'csv' }),
  // @ts-expect-error -- it is not guessed
  abide.imports.create(new Blob(), { scopes: ['email'] }),
  // @ts-expect-error -- a misspelt parameter
  abide.imports.create(new Blob(), { format: 'csv', scope: ['email'] }),
  // @ts-expect-error -- a text may be a file or the name of one
  abide.imports.create('opt-outs.csv', { format: 'csv' }),
  // @ts-expect-error -- there is no such state
  abide.imports.list({ state: 'complete' }),
  // @ts-expect-error -- which store?
  abide.call('GET /v1/stores/{name}/quarantine'),
  // @ts-expect-error -- a call without a key of its own takes none
  abide.call('POST /v2/checks', { body: { items: [] }, idempotencyKey: 'one' }),
  // @ts-expect-error -- an answer has no member of this name
  abide.lag().then((lag) => lag.stores[0]?.lag_seconds),
  problem.code === 'ledger-unavailable' || problem.code === 'a-code-of-tomorrow',
];

type Same<A, B> = [A, B] extends [B, A] ? true : false;
const same = <A, B>(is: Same<A, B>): boolean => is;

test('what goes in and what comes out have the names and values of the API', () => {
  expect([
    same<RequestOf<'POST /v2/opt-outs'>['body'], OptOutRequest>(true),
    same<RequestOf<'POST /v2/checks'>['body']['items'][number], CheckItem>(true),
    same<AnswerOf<'GET /v1/stores/{name}/gate'>['answer'], 'send' | 'hold'>(true),
    same<Extract<Route, `${string}/events`>, never>(true),
  ]).toEqual([true, true, true, true]);
});
