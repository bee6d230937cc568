// A receipt: what the ledger knows of one opt-out at one moment, signed, so that whoever has the public keys can check it without
// Abide (docs/receipts.md). It is a JSON Web Signature (RFC 7515, Ed25519 by RFC 8037). It names nobody: instead of an address it has
// a digest, under a salt that is handed over beside it and only to whom it may concern.
import { createHmac } from 'node:crypto';
import { CompactSign } from 'jose';
import { z } from 'zod';
import type { FoundOptOut } from '../ledger/contract/opt-outs.ts';
import type { SigningKey } from '../ledger/contract/signing.ts';
import type { Instant } from '../suppression/decision.ts';
import { SUBJECT_KINDS } from '../suppression/subject-kind.ts';
import type { Subject } from '../suppression/subject.ts';

/** In the protected header, as `typ`: nothing else that a key of ours signs passes for a receipt. */
export const RECEIPT_TYPE = 'abide-receipt+jws';

const At = z.iso.datetime();

/** What is signed. Members may be added to it later: who reads one leaves out what they do not know. */
export const ReceiptStatement = z.object({
  as_of: At,
  opt_out: z.object({
    id: z.uuid(),
    requested_scopes: z.array(z.string()).min(1),
    in_force: z.boolean(),
    effective_at: At,
    received_at: At,
    recorded_at: At,
    identifiers: z.array(z.object({ kind: z.enum(SUBJECT_KINDS), digest: z.string().nullable() })).min(1),
  }),
  propagation: z.object({
    state: z.string(),
    required: z.int(),
    confirmed: z.int(),
    verified: z.int(),
    first_completed_at: At.nullable(),
    uncovered: z.array(z.string()),
    stores: z.array(
      z.object({
        store: z.string(),
        required: z.boolean(),
        state: z.string(),
        decisions: z.array(
          z.object({
            identifier: z.int(),
            state: z.string(),
            recorded_at: At,
            acknowledged_at: At.nullable(),
          }),
        ),
      }),
    ),
  }),
});
export type ReceiptStatement = z.infer<typeof ReceiptStatement>;

/** A salt as it is handed over: 32 bytes in base64url. */
export const SALT = /^[\w-]{43}$/;

/** HMAC-SHA-256 (salt, kind ‖ 0x00 ‖ normal form), in base64url: who has the salt and the address can make it anew. */
export const digestOf = (salt: Buffer, { kind, value }: Subject): string =>
  createHmac('sha256', salt).update(`${kind}\0${value.reveal()}`).digest('base64url');

/** An identifier that was erased has no digest any more. */
export const stateReceipt = (
  { optOut, subjects, inForce, propagation }: FoundOptOut,
  { asOf, salt }: { readonly asOf: Instant; readonly salt: Buffer },
): ReceiptStatement => ({
  as_of: asOf,
  opt_out: {
    id: optOut.id,
    requested_scopes: [...optOut.requestedScopes],
    in_force: inForce,
    effective_at: optOut.effectiveAt,
    received_at: optOut.receivedAt,
    recorded_at: optOut.recordedAt,
    identifiers: subjects.map(({ kind, address }) => ({
      kind,
      digest: address === undefined ? null : digestOf(salt, { kind, value: address }),
    })),
  },
  propagation: {
    state: propagation.state,
    required: propagation.required,
    confirmed: propagation.confirmed,
    verified: propagation.verified,
    first_completed_at: propagation.firstCompletedAt ?? null,
    uncovered: [...propagation.uncovered],
    stores: propagation.stores.map(({ store, required, state, decisions }) => ({
      store,
      required,
      state,
      decisions: decisions.map((decision) => ({
        identifier: subjects.findIndex(({ id }) => id === decision.subjectId),
        state: decision.state,
        recorded_at: decision.recordedAt,
        acknowledged_at: decision.acknowledgedAt ?? null,
      })),
    })),
  },
});

export const signReceipt = (
  statement: ReceiptStatement,
  { privateKey, publicKey: { alg, kid } }: SigningKey,
): Promise<string> =>
  new CompactSign(Buffer.from(JSON.stringify(statement)))
    .setProtectedHeader({ alg, typ: RECEIPT_TYPE, kid })
    .sign(privateKey);
