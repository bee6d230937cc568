import { randomBytes } from 'node:crypto';
import { z } from 'zod';
import { SALT, signReceipt, stateReceipt } from '../../receipts/receipt.ts';
import { AbideError } from '../../suppression/errors.ts';
import type { Deps } from '../deps.ts';
import { authorizedOf } from '../guard/authorize.ts';
import { beginWait, PREFER, PREFERENCE_APPLIED, preferredWait, waitedStillValid } from '../guard/prefer.ts';
import { findVisible, visibleClient } from '../guard/visible.ts';
import { Id } from '../operation.ts';
import type { Operation, Routes } from '../operation.ts';
import { OPT_OUT_ID } from './opt-outs.ts';

const SALT_BYTES = 32;

const Receipt = z
  .object({
    object: z.literal('receipt'),
    opt_out_id: Id,
    receipt: z
      .string()
      .regex(/^[\w-]+\.[\w-]+\.[\w-]+$/)
      .describe('A JSON Web Signature. docs/receipts.md says what it states. It names nobody.'),
    salt: z
      .string()
      .regex(SALT)
      .nullable()
      .describe(
        'Whoever has it and the address can show that the receipt is about that address. Phone numbers can be tried out with it: it is answered only to a key with `opt_outs:write` of the client that recorded the opt-out, which knows the address.',
      ),
  })
  .meta({ title: 'Receipt' });

export function addReceipts(routes: Routes, { ledger, closing }: Deps): void {
  const receipt: Operation = {
    method: 'get',
    path: '/v2/opt-outs/:id/receipt',
    id: 'getReceipt',
    tag: 'Opt-outs',
    summary: 'A signed statement of an opt-out and how far it has come',
    description:
      'As it is now. Anybody can check it without Abide, with the public keys at `/.well-known/abide-receipt-keys.json`. `Prefer: wait=30` holds the answer until every required store has confirmed or the time is up.',
    scopes: ['opt_outs:read'],
    params: { id: Id },
    headers: PREFER,
    answers: { 200: { description: 'The receipt.', schema: Receipt, headers: PREFERENCE_APPLIED } },
    problems: ['not-found'],
    examples: {
      receipt: {
        summary: 'Once every store has confirmed',
        path: { id: OPT_OUT_ID },
        headers: { Prefer: 'wait=5' },
        status: 200,
        answer: {
          object: 'receipt',
          opt_out_id: OPT_OUT_ID,
          receipt:
            'eyJhbGciOiJFZERTQSIsInR5cCI6ImFiaWRlLXJlY2VpcHQrandzIiwia2lkIjoia1ByS19xbXhWV2FZVkE5d3dCRjZJdW8zdlZ6ejdUeEhDVHdYQnlnclM0ayJ9.eyJhc19vZiI6IjIwMjYtMTEtMjRUMDk6MDU6MDAuMDAwWiIsIm9wdF9vdXQiOnsiaWQiOiIwMWEyMTEwNy1iNGU5LTc3ZmQtYTRhNi0zMzY0ZDAwZTNmMzciLCJyZXF1ZXN0ZWRfc2NvcGVzIjpbImVtYWlsIl0sImluX2ZvcmNlIjp0cnVlLCJlZmZlY3RpdmVfYXQiOiIyMDI2LTExLTI0VDA5OjAwOjAwLjAwMFoiLCJyZWNlaXZlZF9hdCI6IjIwMjYtMTEtMjRUMDk6MDA6MDAuNDEyWiIsInJlY29yZGVkX2F0IjoiMjAyNi0xMS0yNFQwOTowMDowMC40MTJaIiwiaWRlbnRpZmllcnMiOlt7ImtpbmQiOiJlbWFpbCIsImRpZ2VzdCI6Ik9yNHlFal9rLURDVmk2V2pFX1Z6WThib1BfUEVFSGJ6eERVX0h5aGduTEEifV19LCJwcm9wYWdhdGlvbiI6eyJzdGF0ZSI6ImNvbXBsZXRlIiwicmVxdWlyZWQiOjEsImNvbmZpcm1lZCI6MSwidmVyaWZpZWQiOjEsImZpcnN0X2NvbXBsZXRlZF9hdCI6IjIwMjYtMTEtMjRUMDk6MDA6MDAuNDI3WiIsInVuY292ZXJlZCI6W10sInN0b3JlcyI6W3sic3RvcmUiOiJjcm0iLCJyZXF1aXJlZCI6dHJ1ZSwic3RhdGUiOiJ2ZXJpZmllZCIsImRlY2lzaW9ucyI6W3siaWRlbnRpZmllciI6MCwic3RhdGUiOiJ2ZXJpZmllZCIsInJlY29yZGVkX2F0IjoiMjAyNi0xMS0yNFQwOTowMDowMC40MTJaIiwiYWNrbm93bGVkZ2VkX2F0IjoiMjAyNi0xMS0yNFQwOTowMDowMC40MjdaIn1dfV19fQ.8OLWwd5VFvCeVrzZK-Obo0hEKjBcm2UTuJCoIByDfzkNpmD9D4cPDB-n6vCcVrCAISuLwSxC5Dr7JtW35eYEDQ',
          salt: 'UNhY4JhezH9gQYqvDMWrWH9CwlcKiECVqejMrND2VFw',
        } satisfies z.input<typeof Receipt>,
      },
    },
  };

  routes.add(receipt, async (ctx) => {
    const id = ctx.params.id!;
    const wait = preferredWait(ctx);
    if (wait !== undefined && wait > 0) {
      await findVisible(ctx, ledger, id);
      await ledger.waitForPropagation(id, wait * 1000, beginWait(ctx, closing));
    }
    const seen = await ledger.findOptOutAsOf(id, visibleClient(ctx));
    if (seen === undefined) throw new AbideError('not-found');
    await waitedStillValid(ctx, wait);
    const { key } = authorizedOf(ctx);
    const knowsThem = seen.found.optOut.client === key.client && key.scopes.includes('opt_outs:write');
    const salt = randomBytes(SALT_BYTES);
    const statement = stateReceipt(seen.found, { asOf: seen.asOf, salt });
    ctx.body = {
      object: 'receipt',
      opt_out_id: seen.found.optOut.id,
      receipt: await signReceipt(statement, ledger.signing.current()),
      salt: knowsThem ? salt.toString('base64url') : null,
    } satisfies z.input<typeof Receipt>;
  });
}
