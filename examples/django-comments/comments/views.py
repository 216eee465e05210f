"""A page with a form, and what the form does. Nothing here knows of readers: the signals do."""

from django.conf import settings
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_GET, require_POST

from .models import Comment


@require_GET
def thread(request):
    comments = Comment.objects.filter(forum="books", thread="dune")
    fanfare = {name: settings.FANFARE[name] for name in ("url", "key")}
    return render(request, "comments/thread.html", {"comments": comments, "fanfare": fanfare})


@require_POST
def add(request):
    user, text = request.POST.get("user", "").strip(), request.POST.get("text", "").strip()
    comment = Comment(user=user, text=text)
    if not (user.isidentifier() and len(user) <= 40 and 0 < len(text) <= 2000):
        return HttpResponse("a name of letters and digits, and up to 2,000 characters of text", status=400)
    comment.save()
    return redirect("thread")


@require_POST
def edit(request, pk):
    comment = get_object_or_404(Comment, pk=pk)
    text = request.POST.get("text", "").strip()
    if not 0 < len(text) <= 2000:
        return HttpResponse("up to 2,000 characters of text", status=400)
    comment.text = text
    comment.save()
    return redirect("thread")


@require_POST
def delete(request, pk):
    get_object_or_404(Comment, pk=pk).delete()
    return redirect("thread")
