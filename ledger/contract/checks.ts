// May a message be sent?
import type { Instant } from '../../suppression/decision.ts';
import type { Scope } from '../../suppression/scope.ts';
import type { Subject } from '../../suppression/subject.ts';

export type CheckItem = {
  readonly subjects: readonly Subject[];
  /** What would be done: a message on a channel, perhaps about a topic, or a purpose. */
  readonly scope: Scope;
  /** False for a topic that nobody can have refused by this name: it may be any of its channel's, misspelt. */
  readonly isDeclared: boolean;
};
export type CheckAnswer = {
  readonly canSend: boolean;
  readonly reason: 'opted_out' | 'topic_required' | undefined;
  readonly optOutId: string | undefined;
  readonly effectiveAt: Instant | undefined;
};
