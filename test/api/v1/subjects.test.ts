import { expect, test } from '@jest/globals';
import { problemOf } from '../../harness/http.ts';
import { serveStub } from '../serving.ts';
import { AT, FOUND, ID } from '../stub-ledger.ts';

const lookup = { subject: { email: 'Ada@example.com' } };

test('a subject whom nobody ever opted out is 200: all false, no opt-outs, no propagation', async () => {
  await using api = await serveStub();
  const { status, text } = await api.send('POST', '/v1/subjects/lookup', { key: 'shop', body: lookup });
  expect([status, text]).toEqual([
    200,
    JSON.stringify({
      object: 'subject',
      subject: { kind: 'email', masked: 'a••@e••.com' },
      scope: { email: false, sms: false, push: false },
      effective: { email: null, sms: null, push: null },
      opt_outs: [],
      propagation: null,
    }),
  ]);
});

test('a subject that is known has its state of now, its opt-outs as GET has them, and the newest one’s propagation', async () => {
  const asked: string[] = [];
  await using api = await serveStub({
    lookupSubject: ({ value }) => {
      asked.push(value.reveal());
      return Promise.resolve({
        state: {
          version: 3,
          suppressed: { email: { first_effective_at: AT, last_effective_at: AT, opt_out_id: ID } },
          granted: {},
        },
        optOuts: [FOUND],
        propagation: FOUND.propagation,
      });
    },
  });
  const { json } = await api.send('POST', '/v1/subjects/lookup', { key: 'shop', body: lookup });
  const { json: found } = await api.send('GET', `/v1/opt-outs/${ID}`, { key: 'shop' });
  expect(asked).toEqual(['ada@example.com']);
  expect(json).toMatchObject({
    scope: { email: true, sms: false, push: false },
    effective: { email: AT, sms: null, push: null },
    opt_outs: [found],
    propagation: found.propagation,
  });
});

test.each([
  [{}, ['/subject']],
  [{ subject: {} }, ['/subject']],
  [{ subject: { email: 'nobody' } }, ['/subject/email']],
  [{ subject: { email: 'a@example.com' }, limit: 5 }, ['/limit']],
  [[], ['']],
])('%j is refused', async (body, pointers) => {
  await using api = await serveStub();
  expect(problemOf(await api.send('POST', '/v1/subjects/lookup', { key: 'shop', body }))).toEqual([
    422,
    'invalid-value',
    pointers,
  ]);
});
