# The demo in a container. CPU by default:
#     docker build -t eet-demo . && docker run -p 7860:7860 -v eet-cache:/home/user/.cache eet-demo
# With an NVIDIA GPU, build with its torch and run with --gpus all:
#     docker build -t eet-demo --build-arg TORCH_INDEX=https://pypi.org/simple .

FROM python:3.12-slim-bookworm

RUN apt-get update && apt-get install -y --no-install-recommends g++ && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 user

USER user
WORKDIR /home/user/app
ENV PATH=/home/user/.local/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    EET_DEMO_HOST=0.0.0.0 \
    EET_DEMO_PORT=7860 \
    CUPY_CACHE_DIR=/home/user/.cache/cupy

COPY --chown=user requirements.txt ./
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN pip install --no-cache-dir --user --index-url "$TORCH_INDEX" "$(sed -n 's/^\(torch==[^;]*\); python_version >= .*/\1/p' requirements.txt)" \
    && pip install --no-cache-dir --user -r requirements.txt

COPY --chown=user . .

# Models, compiled engines and CuPy's cubins outlive the container.
RUN mkdir -p /home/user/.cache
VOLUME /home/user/.cache

EXPOSE 7860
CMD ["sh", "-c", "python -m eet_demo fetch smollm2-135m && exec python app.py"]
