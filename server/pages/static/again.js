// A page that is not ready looks again by itself.

setTimeout(() => location.reload(), 1500);
