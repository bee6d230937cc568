import { z } from 'zod';
import { EVIDENCE_METHODS } from '../../ledger/contract/opt-outs.ts';
import type { Evidence } from '../../ledger/contract/opt-outs.ts';
import { boundedText } from '../bounded-text.ts';

export const Method = z.enum(EVIDENCE_METHODS).describe('How the person said it.');
export const Statement = boundedText(2_000, 'What the person was shown, or said. Kept sealed.');
export const Source = boundedText(500, 'Where from: a page, a call, a campaign. Kept sealed.');

const EMPTY = 'must not be empty';
/** The same for a field that must be filled: white space alone says nothing. */
export const filled = (text: ReturnType<typeof boundedText>) =>
  text.min(1, { error: EMPTY, abort: true }).refine((given) => given.trim() !== '', EMPTY);

/** As it is answered to the client that gave it. */
export const EvidenceAnswer = z
  .object({ method: Method, statement: z.string().nullable(), source: z.string().nullable() })
  .meta({ title: 'EvidenceAnswer' });

export const renderEvidence = ({ method, statement, source }: Evidence): z.input<typeof EvidenceAnswer> => ({
  method,
  statement: statement ?? null,
  source: source ?? null,
});
