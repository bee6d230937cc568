import { z } from 'zod';
import { Instant } from './operation.ts';

export const PROPAGATION_STATES = ['pending', 'complete', 'uncovered'] as const;

/** What every form of a propagation begins with. */
export const PROPAGATION_COUNTS = {
  state: z
    .enum(PROPAGATION_STATES)
    .describe(
      '`complete`: every required store has confirmed. `uncovered`: no required store covers what was asked for, so nothing is promised.',
    ),
  required: z.int().min(0).describe('How many stores must confirm.'),
  confirmed: z.int().min(0).describe('How many have.'),
  verified: z.int().min(0).describe('How many of these were read back and seen to hold it.'),
};

/** The state of a store, or of one decision in it. */
export const STORE_STATES = {
  state: z
    .enum(['pending', 'verified', 'applied', 'superseded', 'absent', 'quarantined', 'paused', 'retired'])
    .describe(
      '`verified`: it was read back and holds it. `applied`: it accepted it and cannot be read back. `superseded`: it holds a newer decision. `absent`: it does not know the person, or the address was erased before it was told. `quarantined`: it keeps failing it, and is tried again for ever.',
    ),
  recorded_at: Instant,
  applied_at: Instant.nullable(),
  verified_at: Instant.nullable(),
  acknowledged_at: Instant.nullable(),
  latency_ms: z.number().nullable().describe('From recorded to acknowledged.'),
  attempts: z.int().min(0).nullable(),
  reason: z.string().nullable().describe('A code, if it is not confirmed.'),
};
