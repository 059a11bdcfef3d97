"""End-to-end tests: real applications under the real `opentelemetry-instrument`, read by real receivers."""
