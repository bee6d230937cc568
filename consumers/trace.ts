// With tracing on, each batch that is carried to a store is a span: part of the trace of the request that recorded it or, for a
// batch of many, linked with the trace of each.
import { ROOT_CONTEXT, SpanKind, SpanStatusCode, context, trace } from '@opentelemetry/api';
import type { Tracer } from '@opentelemetry/api';
import type { Decision } from '../suppression/decision.ts';
import { parseTraceparent } from '../suppression/traceparent.ts';

const LINKS_MAX = 128;

export async function traced<T>(
  tracer: Tracer | undefined,
  store: string,
  decisions: readonly Pick<Decision, 'traceparent'>[],
  work: () => Promise<T>,
): Promise<T> {
  if (tracer === undefined) return await work();
  const origins = decisions
    .flatMap(({ traceparent }) => parseTraceparent(traceparent) ?? [])
    .slice(0, LINKS_MAX)
    .map((origin) => ({ ...origin, isRemote: true }));
  const [only] = decisions.length === 1 ? origins : [];
  const parent = only === undefined ? ROOT_CONTEXT : trace.setSpanContext(ROOT_CONTEXT, only);
  const span = tracer.startSpan(
    `carry ${store}`,
    {
      kind: SpanKind.CLIENT,
      attributes: { 'abide.store': store, 'abide.decisions': decisions.length },
      links: only === undefined ? origins.map((origin) => ({ context: origin })) : [],
    },
    parent,
  );
  try {
    return await context.with(trace.setSpan(parent, span), work);
  } catch (error) {
    // The error's name and not its message, which may quote what the store was told.
    span.setStatus({ code: SpanStatusCode.ERROR, message: error instanceof Error ? error.name : 'Error' });
    throw error;
  } finally {
    span.end();
  }
}
