// What can be refused: a channel, a channel's topic, or a purpose. Channels always exist; topics and purposes are those that the
// configuration declares, so that a misspelt one is not a silent opt-out of nothing.
import { z } from 'zod';
import { CHANNELS, isDeclared, isScope, PURPOSES, SCOPE } from '../../suppression/scope.ts';
import type { DeclaredScopes, Scope } from '../../suppression/scope.ts';

const SCOPES_MAX = 50;

export const NOT_DECLARED = 'is not declared in the configuration (topics, purposes)';

/** `declared` undefined: any that could be declared. */
export const createScopeSchema = (declared: DeclaredScopes | undefined) =>
  z
    .string()
    .transform((text, context): Scope => {
      const isForm = isScope(text);
      if (isForm && (declared === undefined || isDeclared(text, declared))) return text;
      const message = isForm
        ? NOT_DECLARED
        : `must be a channel (${CHANNELS.join(', ')}), a topic such as email/newsletter, or a purpose (${PURPOSES.join(', ')})`;
      context.addIssue({ code: 'custom', message });
      return z.NEVER;
    })
    .meta({
      title: 'Scope',
      pattern: SCOPE.source,
      description:
        'A channel (`email`), a topic of a channel (`email/newsletter`), or a purpose (`analytics`). Topics and purposes are those that the configuration declares; others are refused. `email` covers `email/newsletter`, never the reverse.',
    });

/** Each once, in the order of the request. */
export const createScopesSchema = (declared: DeclaredScopes | undefined) =>
  z
    .array(createScopeSchema(declared))
    .min(1, 'must have at least one')
    .max(SCOPES_MAX, `must have at most ${SCOPES_MAX}`)
    .transform((scopes): Scope[] => [...new Set(scopes)]);
