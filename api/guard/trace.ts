// With tracing on, each request is a span: names only, never a body, a query or an address. With tracing off, a client's own trace
// context travels on all the same.
import { ROOT_CONTEXT, SpanKind, SpanStatusCode, context, trace } from '@opentelemetry/api';
import type { Tracer } from '@opentelemetry/api';
import type { Context, Middleware } from 'koa';
import { formatTraceparent, parseTraceparent } from '../../suppression/traceparent.ts';

export function createTrace(tracer: Tracer | undefined): Middleware {
  return async (ctx, next) => {
    const header = ctx.req.headers.traceparent;
    const client = parseTraceparent(typeof header === 'string' ? header : undefined);
    if (tracer === undefined) {
      ctx.state.traceparent = client && formatTraceparent(client);
      await next();
      return;
    }
    const parent =
      client === undefined ? ROOT_CONTEXT : trace.setSpanContext(ROOT_CONTEXT, { ...client, isRemote: true });
    const span = tracer.startSpan(ctx.method, { kind: SpanKind.SERVER }, parent);
    ctx.state.traceparent = formatTraceparent(span.spanContext());
    try {
      await context.with(trace.setSpan(parent, span), next);
    } finally {
      const route = (ctx as { _matchedRoute?: unknown })._matchedRoute;
      if (typeof route === 'string') {
        span.updateName(`${ctx.method} ${route}`);
        span.setAttribute('http.route', route);
      }
      span.setAttributes({ 'http.request.method': ctx.method, 'http.response.status_code': ctx.status });
      if (ctx.status >= 500) span.setStatus({ code: SpanStatusCode.ERROR });
      span.end();
    }
  };
}

/** The trace context that a decision made by this request carries on. */
export const traceparentOf = (ctx: Context): string | undefined =>
  ctx.state.traceparent as string | undefined;
