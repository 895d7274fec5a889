# The demo in a container. CPU by default:
#     docker build -t eet-demo . && docker run -p 7860:7860 -v eet-cache:/home/user/.cache eet-demo
# With an NVIDIA GPU, build with the torch that brings CUDA along and run with --gpus all:
#     docker build -t eet-demo --build-arg TORCH_INDEX= .

FROM python:3.12-slim-bookworm AS wheel
WORKDIR /source
COPY . .
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheel .

FROM python:3.12-slim-bookworm

RUN apt-get update && apt-get install -y --no-install-recommends g++ && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 user

USER user
WORKDIR /home/user
ENV PATH=/home/user/.local/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    EET_DEMO_HOST=0.0.0.0 \
    EET_DEMO_PORT=7860 \
    CUPY_CACHE_DIR=/home/user/.cache/cupy

# Packages first: they change less often than the demo.
COPY --chown=user requirements.txt ./
# Where torch comes from; empty is pip's own index.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN pip install --no-cache-dir --user ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} \
        "$(sed -n 's/^\(torch==[^;]*\); python_version >= .*/\1/p' requirements.txt)" \
    && pip install --no-cache-dir --user -r requirements.txt

COPY --from=wheel /wheel /tmp/wheel
RUN pip install --no-cache-dir --user --no-deps /tmp/wheel/*.whl

# Models, compiled engines and CuPy's cubins outlive the container.
RUN mkdir -p /home/user/.cache
VOLUME /home/user/.cache

EXPOSE 7860
CMD ["sh", "-c", "eet-demo fetch smollm2-135m && exec eet-demo"]
