import { expect, test } from '@jest/globals';
import { serveStub } from '../serving.ts';
import { AT, COMPLETE, FOUND, ID, PENDING } from '../stub-ledger.ts';

test('a propagation has these members in this order, and what is not known yet is null', async () => {
  await using api = await serveStub();
  const { status, text } = await api.send('GET', `/v1/opt-outs/${ID}/propagation`, { key: 'shop' });
  expect([status, text]).toEqual([
    200,
    JSON.stringify({
      id: ID,
      state: 'pending',
      required: 3,
      confirmed: 0,
      verified: 0,
      first_completed_at: null,
      uncovered: [],
      stores: [
        {
          store: 'crm',
          required: true,
          state: 'pending',
          recorded_at: AT,
          applied_at: null,
          verified_at: null,
          acknowledged_at: null,
          latency_ms: null,
          attempts: null,
          reason: null,
        },
      ],
    }),
  ]);
});

test('what is known is all there', async () => {
  const store = {
    store: 'crm',
    required: false,
    state: 'quarantined' as const,
    recordedAt: AT,
    appliedAt: '2026-11-24T09:00:01.000Z',
    verifiedAt: '2026-11-24T09:00:02.000Z',
    acknowledgedAt: '2026-11-24T09:00:03.000Z',
    latencyMs: 3_000,
    attempts: 4,
    reason: 'NOT_HELD',
    decisions: [],
  };
  await using api = await serveStub({
    findOptOut: () =>
      Promise.resolve({ ...FOUND, propagation: { ...COMPLETE, uncovered: ['push'], stores: [store] } }),
  });
  const { json } = await api.send('GET', `/v1/opt-outs/${ID}/propagation`, { key: 'shop' });
  expect(json).toEqual({
    id: ID,
    state: 'complete',
    required: 3,
    confirmed: 3,
    verified: 2,
    first_completed_at: AT,
    uncovered: ['push'],
    stores: [
      {
        store: 'crm',
        required: false,
        state: 'quarantined',
        recorded_at: AT,
        applied_at: '2026-11-24T09:00:01.000Z',
        verified_at: '2026-11-24T09:00:02.000Z',
        acknowledged_at: '2026-11-24T09:00:03.000Z',
        latency_ms: 3_000,
        attempts: 4,
        reason: 'NOT_HELD',
      },
    ],
  });
});

test('nobody waits for the propagation of what may not be seen', async () => {
  let waited = 0;
  await using api = await serveStub({
    waitForPropagation: () => {
      waited += 1;
      return Promise.resolve(PENDING);
    },
  });
  const headers = { Prefer: 'wait=30' };
  const foreign = await api.send('GET', `/v1/opt-outs/${ID}/propagation`, { key: 'other', headers });
  expect([foreign.status, foreign.headers['preference-applied'], waited]).toEqual([404, undefined, 0]);
});
